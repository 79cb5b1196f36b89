package integration

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/seedtest"
)

var soakTime = flag.Duration("soak", 40*time.Second, "how long TestSoak soaks")

const (
	// soakEnd is how long all may take to go when the traffic is over.
	soakEnd = 30 * time.Second
	// operatorPause is between two things that an operator does, apart from the time they
	// take.
	operatorPause = 500 * time.Millisecond
)

// soaked is a server of a soak, on two ports.
type soaked struct {
	name        string
	at          place
	family      Family
	first       int // of its sources
	short, long netip.AddrPort
}

// source is one of the server's own sources.
func (k *soaked) source(i int) netip.Addr { return CrowdAddr(k.family, k.first+i) }

// soak is a firewall to which everything happens for a while.
type soak struct {
	t        *testing.T
	lab      *Lab
	fw       *Firewall
	rand     *rand.Rand
	servers  []*soaked
	wires    map[Family]*rawWire
	honest   honest
	sessions *sessions
	attacks  sync.RWMutex // held while there are no hooks; by attackers while they try
	replaced sync.RWMutex // held while one daemon takes the place of another

	flooded, attacked atomic.Int64
	killed            int            // sessions
	done              map[string]int // what the operator did, how often
	most              int            // connections that a server held of one source
	lives             []*life        // of daemons
}

// Everything at once, for a while: honest clients, long sessions, floods, attackers at
// their limit, reloads, kills, crashes, restarts, hand-overs, and a kernel that forgets.
// No session is lost, no honest client fails but while there is no daemon, no limit is
// passed; and when all is over, nothing is left and nothing has grown.
func TestSoak(t *testing.T) {
	needIPSet(t)
	s := newSoak(t)
	ctx, cancel := context.WithTimeout(t.Context(), *soakTime+3*soakEnd)
	defer cancel()
	s.run(ctx)
	s.expectEqual(ctx)
	s.expectNothing(ctx)
	s.report()
}

func newSoak(t *testing.T) *soak {
	t.Helper()
	s := &soak{t: t, lab: newLab(t, Options{}), rand: seedtest.Rand(t), wires: make(map[Family]*rawWire), done: make(map[string]int)}
	s.fw = startFirewall(t, s.lab, soakConfig(s.rand))
	for _, f := range Families {
		s.wires[f] = openWire(t, s.lab, f)
		for _, at := range places {
			for i, policy := range soakPolicies {
				s.serve(at, f, policy, uint16(i))
			}
		}
	}
	return s
}

// serve starts one server.
func (s *soak) serve(at place, f Family, policy string, i uint16) {
	s.t.Helper()
	k := &soaked{
		name: fmt.Sprintf("%s/%s/%v", policy, at.name, f), at: at, family: f, first: len(s.servers) * soakSources,
		short: netip.AddrPortFrom(at.addr(f), soakShortPort+i), long: netip.AddrPortFrom(at.addr(f), soakLongPort+i),
	}
	answerShort(s.t, at.ns(s.lab), k.short)
	must[*AcceptCounter](s.t, "listen")(at.ns(s.lab).CountAccepts(k.long, AcceptOptions{Echo: true, CloseOnEOF: true}))
	s.servers = append(s.servers, k)
}

// run lets everything happen. Daemons come and go in the first half; the last one of
// those lives through the second, in which nothing may grow.
func (s *soak) run(ctx context.Context) {
	s.t.Helper()
	loads, stop := context.WithCancel(ctx)
	defer stop()
	s.sessions = newSessions(ctx)
	for _, k := range s.servers {
		for i := range sessionSources {
			s.open(ctx, k, k.source(sessionFirst+i))
		}
	}
	var wg sync.WaitGroup
	for range soakWorkers {
		r := rand.New(rand.NewPCG(s.rand.Uint64(), 0))
		wg.Go(func() { s.work(loads, r) })
	}
	flood := rand.New(rand.NewPCG(s.rand.Uint64(), 0))
	wg.Go(func() { s.flood(loads, flood) })
	for _, k := range s.servers {
		for i := range attackSources {
			wg.Go(func() { s.attack(loads, k, k.source(attackFirst+i)) })
		}
	}
	wg.Go(func() { s.watch(loads) })
	began := time.Now()
	s.operate(ctx, began.Add(*soakTime/2), append(gentle, rough...))
	s.operate(ctx, began.Add(*soakTime), gentle)
	stop()
	wg.Wait()
}

// open opens a session and has something said on it.
func (s *soak) open(ctx context.Context, k *soaked, from netip.Addr) {
	s.t.Helper()
	h := s.lab.Client.Hold(ctx, HoldOptions{From: from, To: k.long, N: 1})
	if h.Count(Held) != 1 {
		s.t.Fatalf("%s: session of %v: %v %v", k.name, from, h, h.Attempts[0].Err)
	}
	s.sessions.add(h.Conns()[0])
}

// expectEqual holds that, once only sessions are left, the states whose server is
// ESTABLISHED, those that count, the connections of all sources, the kernel's entries that
// are ESTABLISHED and the sockets that servers hold are as many as sessions live.
func (s *soak) expectEqual(ctx context.Context) {
	s.t.Helper()
	if err := s.sessions.round(ctx); err != nil {
		s.t.Error(err)
	}
	for _, k := range s.sessions.end() {
		s.t.Errorf("lost: %v", k)
	}
	live := 0
	for _, k := range s.sessions.all() {
		if k.err == nil {
			live++
		}
	}
	want := tally{live, live, live, live, live, live}
	got, _ := s.await(ctx, func(got tally, _ int) bool { return got == want })
	if got != want {
		s.t.Errorf("%+v, want %+v; beside the sessions:\n%s", got, want, s.strangers(ctx))
	}
	s.t.Logf("with %d sessions alone: %+v", live, got)
}

// tally is what the engine, the kernel and the sockets have of one soak.
type tally struct{ states, established, counting, connections, entries, sockets int }

func (s *soak) tally(ctx context.Context) (n tally) {
	s.t.Helper()
	list := must[[]control.State](s.t, "states")(s.fw.States(ctx))
	n.states = len(list)
	for _, k := range list {
		if k.Dest.State == "ESTABLISHED" {
			n.established++
		}
		if k.Counts {
			n.counting++
		}
	}
	for _, k := range s.sources(ctx) {
		n.connections += k.Connections
	}
	for _, f := range []string{"ipv4", "ipv6"} {
		out := must[[]byte](s.t, "conntrack -L")(s.lab.Gateway.Command(ctx, "conntrack", "-L", "-f", f, "-p", "tcp").Output())
		n.entries += strings.Count(string(out), "ESTABLISHED ")
	}
	for _, at := range places {
		sockets := must[Sockets](s.t, "sockets")(at.ns(s.lab).Sockets(Established, CloseWait))
		n.sockets += len(sockets)
	}
	return n
}

// sources are those of "nfqfw sources --json".
func (s *soak) sources(ctx context.Context) (list []control.Source) {
	s.t.Helper()
	text := must[string](s.t, "sources")(s.fw.Command(ctx, "sources", "--json"))
	var document struct{ Sources []control.Source }
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		s.t.Fatalf("sources: %v: %s", err, text)
	}
	return document.Sources
}

// expectNothing ends the sessions and holds that soon nothing is left of anything.
func (s *soak) expectNothing(ctx context.Context) {
	s.t.Helper()
	for _, k := range s.sessions.all() {
		_ = k.conn.Close()
	}
	over := func(got tally, sources int) bool { return got == tally{} && sources == 0 }
	if got, sources := s.await(ctx, over); !over(got, sources) {
		s.t.Errorf("%d sources and %+v are left", sources, got)
	}
}

// await looks until all is as it should be, for a while, and says how it was at last.
func (s *soak) await(ctx context.Context, settled func(got tally, sources int) bool) (got tally, sources int) {
	s.t.Helper()
	waiting, cancel := context.WithTimeout(ctx, soakEnd) // of the wait, and not of the looks: what is left is to be told
	defer cancel()
	_ = Poll(waiting, func() bool {
		got, sources = s.tally(ctx), len(s.sources(ctx))
		return settled(got, sources)
	})
	return got, sources
}

// strangers are the states of connections that are no session, with the kernel's entries
// of the same clients.
func (s *soak) strangers(ctx context.Context) string {
	s.t.Helper()
	ours := make(map[netip.AddrPort]bool)
	for _, k := range s.sessions.all() {
		ours[addrPortOf(k.conn.LocalAddr())] = k.err == nil
	}
	var b strings.Builder
	for _, k := range must[[]control.State](s.t, "states")(s.fw.States(ctx)) {
		if ours[netip.AddrPortFrom(k.Source.Address, k.Source.Port)] {
			continue
		}
		b.Write(k.AppendText(nil, 1))
		entry, _ := s.lab.Gateway.Command(ctx, "conntrack", "-L", "-p", "tcp", "-s", k.Source.Address.String(), "--sport", fmt.Sprint(k.Source.Port)).Output()
		b.Write(entry)
	}
	return b.String()
}

// report is the figures, and the verdict about what has grown.
func (s *soak) report() {
	s.t.Helper()
	lost := 0
	for _, k := range s.sessions.all() {
		if k.err != nil && !k.expected.Load() {
			lost++
		}
	}
	longest, again := s.sessions.waits()
	var b strings.Builder
	row := func(name string, format string, args ...any) {
		fmt.Fprintf(&b, "\n%-28s "+format, append([]any{name}, args...)...)
	}
	row("time", "%v", *soakTime)
	row("sessions", "%d held, %d killed, %d lost; longest wait %v, %v with something lost",
		len(s.sessions.all())-s.killed-lost, s.killed, lost, longest.Round(time.Millisecond), again.Round(time.Millisecond))
	row("honest connections", "%d served, %d failed while new ones were announced to, %d others", s.honest.served.Load(), s.honest.excused.Load(), len(s.honest.failures))
	row("attackers' connections", "%d, at most %d at a time of one source", s.attacked.Load(), s.most)
	row("spoofed packets", "%d", s.flooded.Load())
	for _, name := range slices.Sorted(maps.Keys(s.done)) {
		row(name, "%d", s.done[name])
	}
	longestLife := slices.MaxFunc(s.lives, func(a, b *life) int { return len(a.samples) - len(b.samples) })
	row("drift", "%s", longestLife.drift())
	s.t.Log(b.String())
	for _, f := range s.honest.failures[:min(len(s.honest.failures), 20)] {
		s.t.Errorf("honest: %s", f)
	}
	if err := longestLife.grows(); err != nil {
		s.t.Error(err)
	}
}
