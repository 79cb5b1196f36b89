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

// policies are the ways in which a rule can have connections made: "cookies" is
// the SYN proxy that keeps nothing.
var policies = []string{"synproxy", "cookies", "keep"}

const portsRule = `
[[rule]]
name = "ports"
on = ["eth0"]
port = [25, 80, "8000-8099"]
state = %q
max_src_conn = 1000
`

// policyConfig is portsRule under one of the policies.
func policyConfig(policy string) string {
	if policy == "cookies" {
		return "[syncookies]\nmode = \"always\"\n" + fmt.Sprintf(portsRule, "synproxy")
	}
	return fmt.Sprintf(portsRule, policy)
}

// Whichever packet of the handshakes is lost, once or twice, the connection is
// made, and one only.
//
// On the firewall itself nothing is lost between it and the server. And with
// cookies nobody can know of a client whose ACK was lost and that has nothing to
// say: that one is left out.
func TestLostPackets(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			s := newSeason(t, policy)
			s.sail()
			s.expectMade()
			s.expectClosed()
		})
	}
}

// A season is many voyages at once, in one lab.
type season struct {
	t       *testing.T
	guards  []*guarded // one for each place and family
	voyages []*voyage
}

func newSeason(t *testing.T, policy string) *season {
	s := &season{t: t, guards: guardAll(t, policyConfig(policy), AcceptOptions{Echo: true, CloseOnEOF: true})}
	for _, g := range s.guards {
		s.plan(g, policy)
	}
	return s
}

// plan adds a voyage for each crossing of a place.
func (s *season) plan(g *guarded, policy string) {
	opts := AcceptOptions{Echo: true, CloseOnEOF: true, Banner: []byte(weatherBanner)}
	must[*AcceptCounter](s.t, "listen")(g.server().CountAccepts(g.addr(25), opts))
	g.teach(25)
	g.teach(80)
	for _, c := range crossings {
		for _, banner := range []bool{false, true} {
			unknowable := policy == "cookies" && banner && c.name == "the client's ACK"
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

// sail has all voyages made at once, in their weather.
func (s *season) sail() {
	drops := make(map[*Namespace][]drop)
	for _, v := range s.voyages {
		drops[v.where(v.guarded)] = append(drops[v.where(v.guarded)], v.drops()...)
	}
	for n, list := range drops {
		n.lose(s.t, list...)
	}
	var all errgroup.Group
	for _, v := range s.voyages {
		all.Go(func() error { v.sail(); return nil })
	}
	_ = all.Wait() // errors are the voyages' own
	for n := range drops {
		for _, rule := range n.unused(s.t) {
			s.t.Errorf("nothing was lost by %q", rule)
		}
	}
}

// expectMade looks that each voyage has made one connection in everybody's eyes.
func (s *season) expectMade() {
	for _, v := range s.voyages {
		s.t.Logf("%v: %v", v, v.elapsed.Round(time.Millisecond))
		if v.err != nil {
			s.t.Errorf("%v: %v", v, v.err)
			continue
		}
		s.t.Cleanup(func() { _ = v.conn.Close() })
		if got := v.sockets(); got != "ESTAB, ESTAB" {
			s.t.Errorf("%v: sockets at client and server: %s", v, got)
		}
		if got := summary(v.states()); got != "1 ESTABLISHED:ESTABLISHED" {
			s.t.Errorf("%v: states %s", v, got)
		}
		if n := len(v.entries(v.port)); n != 1 {
			s.t.Errorf("%v: %d entries in conntrack", v, n)
		}
	}
	s.guards[0].expectNoLosses()
}

// expectClosed closes the connections, and sees that it is heard.
func (s *season) expectClosed() {
	for _, v := range s.voyages {
		if v.err == nil {
			closeSession(s.t, v.conn)
		}
	}
	for _, v := range s.voyages {
		if v.err == nil && Poll(v.ctx, func() bool { return summary(v.states()) == "1 FIN_WAIT_2:FIN_WAIT_2" }) != nil {
			s.t.Errorf("%v: closed, and the states are %s", v, summary(v.states()))
		}
	}
	s.guards[0].expectNoLosses()
}

// states are the firewall's of the voyage.
func (v *voyage) states() []control.State {
	list := must[[]control.State](v.t, "states")(v.fw.States(v.ctx))
	return slices.DeleteFunc(list, func(s control.State) bool { return s.Source.Port != v.port })
}

// sockets are the client's and the server's of the voyage.
func (v *voyage) sockets() string {
	client := must[Sockets](v.t, "sockets")(v.lab.Client.Sockets())
	server := must[Sockets](v.t, "sockets")(v.server().Sockets())
	var words []string
	for _, k := range append(client.Local(v.port), server.keep(func(k Socket) bool { return k.Remote.Port() == v.port })...) {
		words = append(words, k.State.String())
	}
	return strings.Join(words, ", ")
}
