package integration

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// A closing is a way in which connections end, or half of it.
type closing struct {
	name string
	do   func(pair)
	want string // "server:client"
	free bool   // whether the slot is free then
}

var closings = []closing{
	{"both close", func(p pair) { _, _ = p.client.Close(), p.server.Close() }, "FIN_WAIT_2:FIN_WAIT_2", true},
	{"the client closes", func(p pair) { _ = p.client.CloseWrite() }, "ESTABLISHED:FIN_WAIT_2", false},
	{"the server closes", func(p pair) { _ = p.server.Close() }, "FIN_WAIT_2:ESTABLISHED", true},
	{"the client resets", func(p pair) { abort(p.client) }, "TIME_WAIT:TIME_WAIT", true},
	{"the server resets", func(p pair) { abort(p.server) }, "TIME_WAIT:TIME_WAIT", true},
}

// Ten sessions end in one way or another; ten new ones get in at once if the
// server holds none of the old, and none if it does.
func TestClosings(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		for i, c := range closings {
			g.testClosing(g.source(i), c)
		}
	})
}

func (g *guarded) testClosing(from netip.Addr, c closing) {
	g.t.Helper()
	pairs := make([]pair, 10)
	for i := range pairs {
		pairs[i] = g.open(from)
	}
	g.waitSummary(from, "10 ESTABLISHED:ESTABLISHED")
	for _, p := range pairs {
		c.do(p)
	}
	g.waitSummary(from, "10 "+c.want)
	g.expectLines(pairs, c.want)
	for _, s := range g.statesOf(from) {
		if s.Counts == c.free {
			g.t.Errorf("%s: a state in %s has counts = %v", c.name, s.State, s.Counts)
		}
	}
	again := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: 10, Concurrency: 10, Send: []byte("."), Silence: pause})
	want := map[bool]int{true: 10, false: 0}[c.free]
	if again.Count(Held) != want || again.Count(Refused)+again.Count(Reset) != 10-want {
		g.t.Errorf("%s: then %v, want %d held", c.name, again, want)
	}
}

// expectLines compares what nfqfw states prints of the connections.
func (g *guarded) expectLines(pairs []pair, state string) {
	g.t.Helper()
	out := must[string](g.t, "nfqfw states")(g.fw.Command(g.ctx, "states"))
	lines := slices.Collect(strings.Lines(out))
	for _, p := range pairs {
		want := stateLine("eth0", g.srv.Addr(), addrPortOf(p.client.LocalAddr()), state)
		if !slices.Contains(lines, want) {
			g.t.Errorf("nfqfw states prints\n%swithout\n%s", out, want)
			return
		}
	}
}

// stateLine is a line of pfctl -ss for an incoming connection.
func stateLine(iface string, server, client netip.AddrPort, state string) string {
	return fmt.Sprintf("%s tcp %s <- %s       %s\n", iface, pfAddr(server), pfAddr(client), state)
}

// pfAddr writes an address and port as pfctl does.
func pfAddr(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return a.String()
	}
	return fmt.Sprintf("%v[%d]", a.Addr(), a.Port())
}

func addrPortOf(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// An ACK of what the server sent before its FIN may come between that FIN and the ACK of
// it: the last ACK of the connection is heard all the same. Heard again, as after a FIN that
// was sent again, it is refused by a server that has let go.
func TestLastACKNotFirst(t *testing.T) {
	eachServer(t, AcceptOptions{}, func(g *guarded, first int) {
		wire := openWire(g.t, g.lab, g.family)
		p := g.open(g.source(first))
		seq, ack, err := numbers(p.client)
		if err != nil {
			g.t.Fatal(err)
		}
		_ = p.client.CloseWrite()
		g.waitSummary(g.source(first), "1 ESTABLISHED:FIN_WAIT_2")
		g.lab.Client.lose(g.t, drop{family: g.family, chain: "OUTPUT", match: "--tcp-flags FIN,RST NONE", all: true})
		defer g.lab.Client.lossless(g.t, g.family)
		_ = p.server.CloseWrite()
		g.waitSummary(g.source(first), "1 CLOSING:FIN_WAIT_2")
		acknowledge := func(acked uint32) {
			p := rawPacket{src: addrPortOf(p.client.LocalAddr()), dst: g.srv.Addr(), seq: seq + 1, ack: acked, flags: flagACK}
			if err := wire.send(p.octets()); err != nil {
				g.t.Fatal(err)
			}
		}
		acknowledge(ack)
		acknowledge(ack + 1)
		g.waitSummary(g.source(first), "1 FIN_WAIT_2:FIN_WAIT_2")
		acknowledge(ack + 1)
		g.waitSummary(g.source(first), "1 TIME_WAIT:TIME_WAIT")
	})
}
