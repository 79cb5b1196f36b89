package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"nfqfw/internal/control"
)

// A crossing is a packet of the handshakes on one of the two wires. With keep
// the same packet crosses both, and can be lost before the firewall or behind.
type crossing struct {
	name  string
	where func(*guarded) *Namespace
	chain string
	port  string // which of the two is the client's
	flags string
}

func atClient(g *guarded) *Namespace { return g.lab.Client }
func atServer(g *guarded) *Namespace { return g.lab.Server }

var crossings = []crossing{
	{"the client's SYN", atClient, "OUTPUT", "--sport", "SYN,ACK SYN"},
	{"the SYN+ACK to the client", atClient, "PREROUTING", "--dport", "SYN,ACK SYN,ACK"},
	{"the client's ACK", atClient, "OUTPUT", "--sport", "SYN,ACK ACK"},
	{"the SYN to the server", atServer, "PREROUTING", "--sport", "SYN,ACK SYN"},
	{"the server's SYN+ACK", atServer, "OUTPUT", "--dport", "SYN,ACK SYN,ACK"},
	{"the ACK to the server", atServer, "PREROUTING", "--sport", "SYN,ACK ACK"},
	{"the window to the client", atClient, "PREROUTING", "--dport", "SYN,ACK ACK"},
}

// A voyage is a connection some packets of which are lost.
type voyage struct {
	*guarded
	crossing
	lost   int    // how many, of the first of that kind
	banner bool   // the server speaks first
	port   uint16 // the client's: no other has it

	conn    *net.TCPConn
	elapsed time.Duration
	err     error
}

func (v *voyage) String() string {
	speaker := "client"
	if v.banner {
		speaker = "server"
	}
	return fmt.Sprintf("%s/%v, the %s speaks first, %s lost %d times", v.at.name, v.family, speaker, v.name, v.lost)
}

// drops are what makes the weather.
func (v *voyage) drops() (list []drop) {
	for range v.lost {
		list = append(list, drop{v.family, v.chain, fmt.Sprintf("%s %d --tcp-flags %s", v.crossing.port, v.port, v.flags), false})
	}
	return list
}

// voyageLimits are how long it may take, by how many packets are lost, until an
// octet has gone there and back.
var voyageLimits = [...]time.Duration{0, 4 * time.Second, 8 * time.Second}

// sail connects and proves the connection.
func (v *voyage) sail() {
	ctx, cancel := context.WithTimeout(v.ctx, voyageLimits[v.lost])
	defer cancel()
	start := time.Now()
	to := v.addr(80)
	if v.banner {
		to = v.addr(25)
	}
	v.conn, v.err = v.lab.Client.Dial(ctx, netip.AddrPortFrom(v.source(0), v.port), to)
	if v.err == nil && v.banner {
		v.err = prove(ctx, v.conn, HoldOptions{Banner: true, Expect: len(weatherBanner)})
	}
	if v.err == nil {
		v.err = prove(ctx, v.conn, HoldOptions{})
	}
	v.elapsed = time.Since(start)
}

const weatherBanner = "220 ready\r\n"

// portsRule is webRule for more ports.
const portsRule = `
[[rule]]
name = "ports"
on = ["eth0"]
port = [25, 80, "8000-8099"]
state = %q
max_src_conn = %d
`

// portsConfig is portsRule under one of the policies, with a limit that none of
// its tests comes to.
func portsConfig(policy string) string { return policyConfig(policy, portsRule, 1000) }

// Whichever packet of the handshakes is lost, once or twice, the connection is
// made, and one only.
//
// On the firewall itself nothing is lost between it and the server. And with
// cookies nobody can know of a client whose ACK was lost and that has nothing to
// say: that one is left out.
func TestLostPackets(t *testing.T) {
	t.Parallel()
	var seasons []*season
	for _, policy := range policies {
		seasons = append(seasons, newSeason(t, policy))
	}
	var all errgroup.Group
	for _, s := range seasons {
		for _, v := range s.voyages {
			all.Go(func() error { v.sail(); return nil })
		}
	}
	_ = all.Wait() // errors are the voyages' own
	for _, s := range seasons {
		s.expectLost()
		s.expectMade()
		s.expectClosed()
	}
}

// A season is many voyages at once, in one lab.
type season struct {
	t       *testing.T
	policy  string
	guards  []*guarded // one for each place and family
	voyages []*voyage
}

func newSeason(t *testing.T, policy string) *season {
	t.Helper()
	s := &season{t: t, policy: policy, guards: guardAll(t, portsConfig(policy), AcceptOptions{Echo: true, CloseOnEOF: true})}
	for _, g := range s.guards {
		s.plan(g)
	}
	drops := make(map[*Namespace][]drop)
	for _, v := range s.voyages {
		drops[v.where(v.guarded)] = append(drops[v.where(v.guarded)], v.drops()...)
	}
	for n, list := range drops {
		n.lose(t, list...)
	}
	return s
}

// plan adds a voyage for each crossing of a place.
func (s *season) plan(g *guarded) {
	opts := AcceptOptions{Echo: true, CloseOnEOF: true, Banner: []byte(weatherBanner)}
	must[*AcceptCounter](s.t, "listen")(g.server().CountAccepts(g.addr(25), opts))
	g.teach(25)
	g.teach(80)
	for _, c := range crossings {
		for _, banner := range []bool{false, true} {
			unknowable := s.policy == "cookies" && banner && c.name == "the client's ACK"
			if unknowable || c.where(g) == g.lab.Server && g.server() != g.lab.Server {
				continue
			}
			for lost := 1; lost < len(voyageLimits); lost++ {
				port := uint16(20000 + len(s.voyages))
				s.voyages = append(s.voyages, &voyage{guarded: g, crossing: c, lost: lost, banner: banner, port: port})
			}
		}
	}
}

// teach has the firewall make a first connection to a port, so that it knows the
// server.
func (g *guarded) teach(port uint16) {
	g.t.Helper()
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: g.addr(port), N: 1})
	if h.Count(Held) != 1 {
		g.t.Fatalf("a first connection to %v: %v", g.addr(port), h)
	}
	_ = h.Close()
}

// expectLost looks that there was weather.
func (s *season) expectLost() {
	s.t.Helper()
	for _, n := range []*Namespace{s.guards[0].lab.Client, s.guards[0].lab.Server} {
		for _, rule := range n.unused(s.t) {
			s.t.Errorf("%s: nothing was lost by %q", s.policy, rule)
		}
	}
}

// expectMade looks that each voyage has made one connection in everybody's eyes.
func (s *season) expectMade() {
	s.t.Helper()
	for _, v := range s.voyages {
		s.t.Logf("%s/%v: %v", s.policy, v, v.elapsed.Round(time.Millisecond))
		if v.err != nil {
			s.t.Errorf("%s/%v: %v", s.policy, v, v.err)
		} else {
			s.t.Cleanup(func() { _ = v.conn.Close() })
		}
	}
	s.expectEach("states", "1 ESTABLISHED:ESTABLISHED", s.states)
	s.expectEach("sockets", "2 ESTAB", s.sockets)
	s.expectEach("entries in conntrack", "1", s.entries)
	s.guards[0].expectNoLosses()
}

// expectClosed closes the connections, and sees that it is heard.
func (s *season) expectClosed() {
	s.t.Helper()
	for _, v := range s.voyages {
		if v.err == nil {
			closeSession(s.t, v.conn)
		}
	}
	s.expectEach("states", "1 FIN_WAIT_2:FIN_WAIT_2", s.states)
	s.guards[0].expectNoLosses()
}

// expectEach waits until something is so of each voyage that went well.
func (s *season) expectEach(what, want string, look func() map[uint16]string) {
	s.t.Helper()
	differs := func(got map[uint16]string) func(*voyage) bool {
		return func(v *voyage) bool { return v.err == nil && got[v.port] != want }
	}
	var got map[uint16]string
	if Poll(s.guards[0].ctx, func() bool { got = look(); return !slices.ContainsFunc(s.voyages, differs(got)) }) == nil {
		return
	}
	for _, v := range s.voyages {
		if differs(got)(v) {
			s.t.Errorf("%s/%v: %s: %q, want %q", s.policy, v, what, got[v.port], want)
		}
	}
}

func (s *season) states() map[uint16]string { return s.guards[0].statesByPort() }

// statesByPort are the firewall's, by the client's port.
func (g *guarded) statesByPort() map[uint16]string {
	g.t.Helper()
	all := make(map[uint16][]control.State)
	for _, k := range must[[]control.State](g.t, "states")(g.fw.States(g.ctx)) {
		all[k.Source.Port] = append(all[k.Source.Port], k)
	}
	got := make(map[uint16]string)
	for port, list := range all {
		got[port] = summary(list)
	}
	return got
}

// sockets are the states of a client's and of its server's, by the client's port.
func (s *season) sockets() map[uint16]string {
	all := make(map[uint16]map[SocketState]int)
	for _, n := range s.guards[0].lab.namespaces() {
		for _, k := range must[Sockets](s.t, "sockets")(n.Sockets()) {
			port := k.Remote.Port()
			if n == s.guards[0].lab.Client {
				port = k.Local.Port()
			}
			if all[port] == nil {
				all[port] = make(map[SocketState]int)
			}
			all[port][k.State]++
		}
	}
	got := make(map[uint16]string)
	for port, count := range all {
		var words []string
		for state, n := range count {
			words = append(words, fmt.Sprint(n, " ", state))
		}
		got[port] = strings.Join(words, ", ")
	}
	return got
}

// entries are how many conntrack has, by the client's port.
func (s *season) entries() map[uint16]string {
	count := make(map[uint16]int)
	for _, g := range s.guards[:len(Families)] {
		for _, k := range g.entries() {
			count[k.Forward.SrcPort]++
		}
	}
	got := make(map[uint16]string)
	for port, n := range count {
		got[port] = fmt.Sprint(n)
	}
	return got
}
