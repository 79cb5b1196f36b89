package synproxy

import (
	"sync"
	"time"

	"nfqfw/internal/packet"
)

// maxServers bounds what is remembered. Only machines that answered a SYN get
// in, so it is reached where a rule protects half the Internet, and then the
// rest are served without window scaling.
const maxServers = 1 << 16

// askInterval is how long nobody else asks a server that is being asked, and
// maxAsked how many are being asked at a time: who makes up SYNs to all addresses
// of a rule gets no more of them through, and no more remembered.
const (
	askInterval = time.Second
	maxAsked    = 1 << 10
)

// A server whose answer contradicts the last one is served without window
// scaling for a while, and then asked again: at first for minDoubt, and twice as
// long each time, up to maxDoubt. It may have been set up anew, or have answered
// out of a full queue (a Linux server's SYN cookies cannot hold a scale without
// timestamps); but there may also be several servers of one address that differ.
const (
	minDoubt = time.Minute
	maxDoubt = time.Hour
)

// Servers is what each server answered when offered every option. The client
// is told of it before the server is asked again, as neither window shift nor
// timestamps can change once the client has heard of them. It is safe for
// concurrent use.
type Servers struct {
	mu      sync.RWMutex
	servers map[serverKey]server
	asked   map[serverKey]question // only of those that are not known
}

// question is one that a server was asked.
type question struct {
	at      time.Duration
	refused bool // it has answered with a RST
}

type serverKey struct {
	addr packet.Addr
	port uint16
}

type server struct {
	options packet.Options
	until   time.Duration // in doubt: no scaling before, unknown after; 0: no doubt
	doubt   time.Duration // how long that was; 0: never
}

// NewServers makes an empty set.
func NewServers() *Servers {
	return &Servers{servers: make(map[serverKey]server), asked: make(map[serverKey]question)}
}

func keyOf(t packet.Tuple) serverKey { return serverKey{t.Dst, t.DstPort} }

// Options are the options of the server a tuple leads to, if they are known at
// time now.
func (s *Servers) Options(t packet.Tuple, now time.Duration) (packet.Options, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.servers[keyOf(t)]
	return r.options, ok && !r.stale(now)
}

func (r *server) stale(now time.Duration) bool { return r.until != 0 && now >= r.until }

// Ask says whether the caller is to ask the server, as nobody has in the last
// second.
func (s *Servers) Ask(t packet.Tuple, now time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(t)
	q, ok := s.asked[key]
	if ok && now < q.at+askInterval || !ok && len(s.asked) >= maxAsked {
		return false
	}
	s.asked[key] = question{at: now}
	return true
}

// Refuse notes that a server has refused whoever asked.
func (s *Servers) Refuse(t packet.Tuple, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[keyOf(t)] = question{at: now, refused: true}
}

// Refuses says whether a server has refused in the last second.
func (s *Servers) Refuses(t packet.Tuple, now time.Duration) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	q := s.asked[keyOf(t)]
	return q.refused && now < q.at+askInterval
}

// Forget drops the questions of more than a second ago, so that servers that
// never answer are not remembered.
func (s *Servers) Forget(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, q := range s.asked {
		if now >= q.at+askInterval {
			delete(s.asked, key)
		}
	}
}

// Learn remembers the options of a SYN+ACK. What the SYN did not offer, asked,
// the server could not answer: what is known of that stays.
func (s *Servers) Learn(t packet.Tuple, asked, answer packet.Options, now time.Duration) {
	known, ok := s.Options(t, now)
	next := learned(known, ok, asked, answer)
	if ok && next == known || !ok && !(asked.HasWScale && asked.SACKPermitted) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(t)
	old, again := s.servers[key]
	if again && old.until != 0 && !old.stale(now) || !again && len(s.servers) >= maxServers {
		return
	}
	s.servers[key] = old.become(next, now)
	delete(s.asked, key)
}

// become is the server after an answer with these options.
func (r *server) become(next packet.Options, now time.Duration) server {
	after := server{options: next, doubt: r.doubt}
	switch {
	case contradicts(&r.options, &next):
		after.options.HasWScale, after.options.WScale, after.options.HasTimestamp = false, 0, false
		after.doubt = min(max(2*r.doubt, minDoubt), maxDoubt)
		after.until = now + after.doubt
	case !next.HasWScale:
		after.until = now + minDoubt
	}
	return after
}

// learned joins what an answer says with what was known and not asked again.
func learned(known packet.Options, ok bool, asked, answer packet.Options) packet.Options {
	next := packet.Options{
		MSS: answer.MSS, WScale: answer.WScale, HasWScale: answer.HasWScale,
		SACKPermitted: answer.SACKPermitted, HasTimestamp: answer.HasTimestamp,
	}
	if !ok {
		return next
	}
	if !asked.HasWScale {
		next.WScale, next.HasWScale = known.WScale, known.HasWScale
	}
	if !asked.SACKPermitted {
		next.SACKPermitted = known.SACKPermitted
	}
	if !asked.HasTimestamp {
		next.HasTimestamp = known.HasTimestamp
	}
	return next
}

// contradicts says whether a client that was told of one server would
// misunderstand the other.
func contradicts(old, next *packet.Options) bool {
	return old.HasWScale && (!next.HasWScale || next.WScale != old.WScale) || old.HasTimestamp && !next.HasTimestamp
}

// Saved is what a set knows, for another one to know.
type Saved struct {
	Known []Known
	Asked []Asked
}

// Known is what is known of a server.
type Known struct {
	Addr         packet.Addr
	Port         uint16
	Options      packet.Options
	Until, Doubt time.Duration
}

// Asked is a question that a server was asked.
type Asked struct {
	Addr    packet.Addr
	Port    uint16
	At      time.Duration
	Refused bool
}

// Save tells what is known of all servers.
func (s *Servers) Save() (saved Saved) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for key, r := range s.servers {
		saved.Known = append(saved.Known, Known{key.addr, key.port, r.options, r.until, r.doubt})
	}
	for key, q := range s.asked {
		saved.Asked = append(saved.Asked, Asked{key.addr, key.port, q.at, q.refused})
	}
	return saved
}

// Restore takes over what another set has known.
func (s *Servers) Restore(saved *Saved) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range saved.Known[:min(len(saved.Known), maxServers)] {
		s.servers[serverKey{k.Addr, k.Port}] = server{options: k.Options, until: k.Until, doubt: k.Doubt}
	}
	for _, q := range saved.Asked[:min(len(saved.Asked), maxAsked)] {
		s.asked[serverKey{q.Addr, q.Port}] = question{q.At, q.Refused}
	}
}
