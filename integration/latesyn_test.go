package integration

import (
	"fmt"
	"net/netip"
	"testing"
)

// A SYN inside a session, whatever its number, gets the server's challenge: an ACK
// with the numbers the client expects (RFC 5961 section 4). The session goes on,
// counts as before, and closes as any other.
func TestSYNInSession(t *testing.T) {
	eachServer(t, AcceptOptions{Echo: true, CloseOnEOF: true}, func(g *guarded, first int) {
		wire := openWire(g.t, g.lab, g.family)
		for i, k := range lateSYNs {
			g.challenge(wire, g.source(first+i), k.name, k.from)
		}
	})
}

// eachServer runs a test for each policy, place and family, in one lab for each
// policy. Each may use ten sources, from the first on.
func eachServer(t *testing.T, opts AcceptOptions, run func(g *guarded, first int)) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			for i, g := range guardAll(t, webConfig(policy, 10), opts) {
				t.Run(fmt.Sprintf("%s/%v", g.at.name, g.family), func(t *testing.T) {
					g.t = t
					run(g, 10*i)
				})
			}
		})
	}
}

// lateSYNs are numbers relative to the one the client will send next.
var lateSYNs = []struct {
	name string
	from int32
}{
	{"the next number", 0}, {"in the window", 1000}, {"an older one", -1000}, {"far from the window", 1 << 30},
}

// challenge sends a SYN inside a new session. Linux answers one in half a second
// (tcp_invalid_ratelimit).
func (g *guarded) challenge(wire *rawWire, source netip.Addr, name string, from int32) {
	g.t.Helper()
	p := g.open(source)
	echo(g.t, p.client)
	seq, ack, err := numbers(p.client)
	if err != nil {
		g.t.Fatal(err)
	}
	heard := openCapture(g.t, g.lab)
	syn := rawPacket{src: addrPortOf(p.client.LocalAddr()), dst: g.srv.Addr(), seq: seq + uint32(from), flags: flagSYN}
	if err := wire.send(syn.octets()); err != nil {
		g.t.Fatal(err)
	}
	answer := heard.next(g.t, syn.dst, syn.src)
	if answer.SYN || answer.RST || answer.FIN || !answer.ACK || answer.Seq != ack || answer.Ack != seq {
		g.t.Errorf("%s: seq %d, ack %d, SYN %v, RST %v; want an ACK with seq %d, ack %d",
			name, answer.Seq, answer.Ack, answer.SYN, answer.RST, ack, seq)
	}
	echo(g.t, p.client)
	if list := g.statesOf(source); summary(list) != "1 ESTABLISHED:ESTABLISHED" || g.counted(source) != 1 {
		g.t.Errorf("%s: then %s, of which %d count", name, summary(list), g.counted(source))
	}
	closeSession(g.t, p.client)
	g.waitSummary(source, "1 FIN_WAIT_2:FIN_WAIT_2")
}
