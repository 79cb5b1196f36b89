package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// story is what a run is made of. All of it is chosen here, from the seed; what
// happens in it is chosen as it happens.
type story struct {
	kind    kind
	gateway policy
	weather weather
	server  character
	attacks attacks

	operator operator

	clients     int // addresses
	ports       int // of each client's, so few that they are used again
	connections int // that are tried
	openFor     time.Duration
	holdFor     time.Duration // on average, after that a client closes
	// What is said: octets of the client's and of the server's. Who has none to
	// send waits for the other.
	asks, answers int
	aborts        bool // the server may close early, or reset
}

// kind is how much can be promised.
type kind uint8

const (
	foul    kind = iota // anything may happen
	fair                // nothing is lost, nobody is hostile, the limit is not reached: nobody is reset
	unlucky             // as fair, but for one packet of a handshake: connected within reconnects
)

var kindNames = []string{"foul", "fair", "unlucky"}

// reconnects is how long a handshake may take that loses one packet.
const reconnects = 4 * time.Second

// policy is how the gateway is configured.
type policy struct {
	rules      []rules.Rule // of the server's ports, in their order
	lifetimes  conntrack.Lifetimes
	cookies    synproxy.CookieMode
	count      rules.Count  // of all rules
	refuse     rules.Refuse // likewise
	states     int          // limits.states
	sources    int          // limits.src_nodes
	start, end float64      // the marks of what is adaptive
	stamps     bool         // the kernel translates timestamps
	flushes    bool         // somebody empties the kernel's table, now and then
	full       bool         // now and then it takes no entry
	overruns   bool         // once more packets come than it judges
	drains     bool         // it is about to stop: what would be proxied is kept
	grants     bool         // its kernel lets connections pass that are granted
	answers    bool         // its kernel answers SYNs itself, where it may,
	demands    bool         // and drops ACKs that repeat no cookie, as under a flood of such
	slow       bool         // packets wait in its queue
}

// weather is what the network does until it clears.
type weather struct {
	loss, duplicate float64
	jitter          time.Duration // more than the gap between two packets reorders them
	clears          time.Duration
	lost            int // the number of the one packet that is lost; 0: none is
}

// character is what the server is like.
type character struct {
	options packet.Options
	fickle  bool    // it has other options each time
	refuses bool    // as if nobody listened
	silent  bool    // as if it were down
	garbage float64 // how often it answers a SYN with what is no answer
	reboots bool    // it forgets its connections once
}

// attacks are how often something hostile is done; 0: never.
type attacks struct {
	noise, inexact, trick, cheat time.Duration
}

// operator is how often somebody at the gateway does something; 0: never.
type operator struct{ reloads, kills time.Duration }

func (s *story) String() string {
	p := &s.gateway
	text := fmt.Sprintf("%s, cookies %v, by %v, states %d, timestamps %v", kindNames[s.kind], p.cookies, p.count, p.states, p.stamps)
	for i := range p.rules {
		text += ", " + describe(&p.rules[i])
	}
	return text
}

// The policies that a run may have. Later ones go here.
var (
	states      = []rules.State{rules.Keep, rules.Synproxy, rules.Adaptive}
	cookieModes = []synproxy.CookieMode{synproxy.CookiesNever, synproxy.CookiesAlways, synproxy.CookiesAdaptive}
	kinds       = []kind{foul, foul, foul, foul, foul, foul, fair, unlucky}
	sizes       = []int{2, 4, 4, 8, 8, 8, 12, 12}
)

func one[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

// oneIn is true once in n times.
func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

func newStory(r *rand.Rand) story {
	s := story{
		kind: one(r, kinds), clients: 1 + r.IntN(4), ports: 1 + r.IntN(6), connections: one(r, sizes),
		openFor: time.Duration(500+r.IntN(4000)) * time.Millisecond,
		holdFor: time.Duration(10+r.IntN(600)) * time.Millisecond,
		asks:    1 + r.IntN(100), answers: r.IntN(2) * 100,
	}
	if oneIn(r, 50) {
		s.connections, s.openFor = 100, 20*time.Second
	}
	if oneIn(r, 3) {
		s.asks, s.answers = 0, 100
	}
	s.gateway = newPolicy(r)
	s.operator = newOperator(r, s.openFor)
	s.server.options = someOptions(r)
	switch s.kind {
	case foul:
		s.darken(r)
	case unlucky:
		s.ports = s.connections
		s.weather = weather{lost: 1 + r.IntN(16), clears: never}
	}
	s.gateway.rules = s.newRules(r)
	s.gateway.grants = r.IntN(2) == 0
	s.gateway.answers = r.IntN(2) == 0
	s.gateway.demands = r.IntN(4) == 0
	proxies := slices.ContainsFunc(s.gateway.rules, func(x rules.Rule) bool { return x.State == rules.Synproxy })
	s.gateway.slow = s.gateway.grants && s.kind == fair && !proxies
	return s
}

// newPolicy is a gateway whose limits are reached, and whose modes switch. Only
// foul stories make them small.
func newPolicy(r *rand.Rand) policy {
	p := policy{
		cookies: one(r, cookieModes), states: 10000, sources: 1000,
		start: 0.25, end: 0.12, stamps: r.IntN(2) == 0, refuse: rules.RefuseReset,
	}
	p.lifetimes.Timeouts = timeouts
	if oneIn(r, 8) {
		p.lifetimes.SrcTrack = time.Duration(1+r.IntN(10)) * time.Second
	}
	if oneIn(r, 8) {
		p.count = rules.CountStates
	}
	p.drains = oneIn(r, 16)
	p.overruns = oneIn(r, 4)
	if r.IntN(2) == 0 { // a mark of one or two connections
		p.start, p.end = 0.0002, 0.0001
	}
	return p
}

// fewSources are so few that a source that is only remembered has to go.
const fewSources = 1

// darken makes a story foul.
func (s *story) darken(r *rand.Rand) {
	s.aborts = true
	p := &s.gateway
	if oneIn(r, 3) {
		p.states = 4 + r.IntN(16)
		p.start, p.end = 0.5, 0.25
	}
	if oneIn(r, 16) {
		p.sources = fewSources
	}
	if oneIn(r, 6) {
		p.lifetimes.Timeouts[conntrack.TCPEstablished] = time.Duration(1+r.IntN(8)) * time.Second
	}
	if oneIn(r, 8) {
		start := 1 + r.IntN(6)
		p.lifetimes.Scaling, p.lifetimes.OwnScaling = conntrack.Scaling{Start: start, End: start + 2 + r.IntN(8)}, oneIn(r, 2)
	}
	if oneIn(r, 6) {
		p.refuse = rules.RefuseDrop
	}
	if r.IntN(3) > 0 {
		s.weather = newWeather(r, s.openFor)
	}
	p.full, p.flushes = oneIn(r, 10), oneIn(r, 10)
	c := &s.server
	c.fickle, c.refuses, c.silent, c.reboots = oneIn(r, 8), oneIn(r, 16), oneIn(r, 16), oneIn(r, 12)
	c.garbage = []float64{0, 0, 0, 0, 0, 0, 0.3, 1}[r.IntN(8)]
	s.attacks = newAttacks(r, s.openFor/10)
}

func newWeather(r *rand.Rand, openFor time.Duration) weather {
	return weather{
		loss: r.Float64() * 0.25, duplicate: r.Float64() * 0.1, jitter: time.Duration(1+r.IntN(40)) * time.Millisecond,
		clears: openFor + time.Duration(r.IntN(5000))*time.Millisecond,
	}
}

// newOperator reloads and kills a few times, if at all.
func newOperator(r *rand.Rand, openFor time.Duration) (o operator) {
	if oneIn(r, 4) {
		o.reloads = openFor / 4
	}
	if oneIn(r, 4) {
		o.kills = openFor / 4
	}
	return o
}

// newAttacks has of each kind about ten, if there are any.
func newAttacks(r *rand.Rand, interval time.Duration) attacks {
	var a attacks
	for _, often := range []*time.Duration{&a.noise, &a.inexact, &a.trick, &a.cheat} {
		if oneIn(r, 3) {
			*often = interval
		}
	}
	return a
}

// someOptions are what a host of some kind offers.
func someOptions(r *rand.Rand) packet.Options {
	o := packet.Options{
		MSS: one(r, []uint16{536, 1400, 1460}), HasWScale: r.IntN(6) > 0,
		SACKPermitted: r.IntN(6) > 0, HasTimestamp: r.IntN(3) > 0,
	}
	if o.HasWScale {
		o.WScale = one(r, []uint8{0, 2, 7, 10, 14})
	}
	return o
}

// timeouts are pf's, shortened so that a run sees all of them end.
var timeouts = conntrack.Timeouts{
	conntrack.TCPFirst: 20 * time.Second, conntrack.TCPOpening: 20 * time.Second, conntrack.TCPEstablished: 100 * time.Second,
	conntrack.TCPClosing: 60 * time.Second, conntrack.TCPFinWait: 30 * time.Second, conntrack.TCPClosed: 20 * time.Second,
}
