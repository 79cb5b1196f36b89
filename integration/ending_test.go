package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Where a handshake of the SYN proxy's can stand when its client ends it.
var stands = []struct {
	name  string
	state string
	drop  string // what the server's host loses, and in which chain
	chain string
	half  bool // the server has half a connection in mind
}{
	{"before the client's ACK", "PROXY:SRC", "", "", false},
	{"the server silent", "PROXY:DST", "--syn", "PREROUTING", false},
	{"the server's answers lost", "PROXY:DST", "--tcp-flags SYN,ACK SYN,ACK", "OUTPUT", true},
}

// Segments with which a client ends it. They have the exact number, which a blind
// attacker would have to guess.
var earlyEnds = []struct {
	name  string
	flags byte
}{
	{"RST", flagRST},
	{"RST with ACK", flagRST | flagACK},
	{"FIN", flagFIN | flagACK},
}

// A client that resets or closes before its server has answered ends the
// handshake, and nothing is left of it. A RST with another number does nothing.
func TestClientEndsHandshake(t *testing.T) {
	for _, policy := range []string{"synproxy", "cookies"} {
		under(t, policy, places[:1], Families, func(t *testing.T, policy string, at place, f Family) {
			t.Parallel() // it waits for what must not come
			g := guardWith(t, webConfig(policy, 10), at, f, AcceptOptions{Echo: true, CloseOnEOF: true})
			g.teach(80)
			for i := range stands {
				if stands[i].state == "PROXY:SRC" && policy == "cookies" {
					continue // nothing is kept that could end
				}
				g.endEarly(i)
			}
			g.expectNoLosses()
		})
	}
}

// endEarly ends handshakes of a stranger's that have come so far.
func (g *guarded) endEarly(stand int) {
	g.t.Helper()
	k, s := stands[stand], newStranger(g.t, g, stand)
	if k.drop != "" {
		g.server().lose(g.t, drop{g.family, k.chain, k.drop, true})
		defer g.server().lossless(g.t, g.family)
	}
	for i, end := range earlyEnds {
		port := uint16(i)
		answer := s.ask(port, rawPacket{})
		if k.state == "PROXY:DST" {
			s.complete(port, answer)
		}
		g.waitSummary(s.from, "1 "+k.state)
		s.waitHalf(k.half)
		s.say(port, rawPacket{seq: strangerISN + 1000, ack: answer.Seq + 1, flags: flagRST})
		time.Sleep(pause)
		if got := summary(g.statesOf(s.from)); got != "1 "+k.state {
			g.t.Errorf("%s, a RST with another number: states %s", k.name, got)
		}
		s.say(port, rawPacket{seq: strangerISN + 1, ack: answer.Seq + 1, flags: end.flags})
		g.waitSummary(s.from, "")
		s.waitHalf(false)
		if list := g.entries(strangerPorts + port); len(list) != 0 {
			g.t.Errorf("%s, %s: entries in conntrack: %v", k.name, end.name, list)
		}
		if end.flags&flagFIN != 0 {
			if last := s.heard.next(g.t, g.srv.Addr(), s.port(port)); !last.RST || last.Seq != answer.Seq+1 {
				g.t.Errorf("%s, %s: the client hears %+v, want a reset", k.name, end.name, last)
			}
		}
	}
}

// waitHalf waits until the server has a half-open connection of the stranger's, or
// nothing at all.
func (s *stranger) waitHalf(half bool) {
	s.t.Helper()
	want := map[bool]string{true: "[SYN-RECV]", false: "[]"}[half]
	var got string
	if Poll(s.ctx, func() bool {
		var states []SocketState
		for _, k := range must[Sockets](s.t, "sockets")(s.server().Sockets()).From(s.from) {
			states = append(states, k.State)
		}
		got = fmt.Sprint(states)
		return got == want
	}) != nil {
		s.t.Fatalf("the server's sockets of %v: %s, want %s", s.from, got, want)
	}
}

// A client that aborts while its server is silent leaves nothing; one that has said
// what it wants and closes is heard, when the server comes.
func TestClientLeavesEarly(t *testing.T) {
	for _, policy := range []string{"synproxy", "cookies"} {
		under(t, policy, places[:1], Families, func(t *testing.T, policy string, at place, f Family) {
			t.Parallel() // it waits for the second SYN
			g := guardWith(t, webConfig(policy, 10), at, f, AcceptOptions{})
			g.open(g.source(5))
			g.server().lose(t, drop{f, "PREROUTING", "--syn", true})
			aborted := must[*net.TCPConn](t, "dial")(g.lab.Client.Dial(g.ctx, netip.AddrPortFrom(g.source(0), 20000), g.srv.Addr()))
			g.waitSummary(g.source(0), "1 PROXY:DST")
			abort(aborted)
			g.waitSummary(g.source(0), "")
			for i, words := range []string{"", "goodbye"} {
				c := must[*net.TCPConn](t, "dial")(g.lab.Client.Dial(g.ctx, netip.AddrPortFrom(g.source(1+i), 0), g.srv.Addr()))
				if _, err := c.Write([]byte(words)); err != nil {
					t.Error(err)
				}
				g.waitSummary(g.source(1+i), "1 PROXY:DST")
				_ = c.Close()
			}
			g.server().lossless(t, f)
			for i, words := range []string{"", "goodbye"} {
				g.expectLast(1+i, words)
			}
			if list := g.entries(20000); len(list) != 0 {
				t.Errorf("entries in conntrack of the one that aborted: %v", list)
			}
			g.expectNoLosses()
		})
	}
}

// expectLast waits for a connection from a source on which the server hears some
// words and the end.
func (g *guarded) expectLast(source int, words string) {
	g.t.Helper()
	var server *net.TCPConn
	if Poll(g.ctx, func() bool {
		for _, c := range g.srv.Conns() {
			if addrPortOf(c.RemoteAddr()).Addr() == g.source(source) {
				server = c
			}
		}
		return server != nil
	}) != nil {
		g.t.Fatalf("the client that closes after %q never comes to its server", words)
	}
	_ = server.SetReadDeadline(time.Now().Add(3 * time.Second))
	if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, []byte(words)) {
		g.t.Errorf("the server reads %q, %v, want %q and the end", got, err, words)
	}
	_ = server.Close()
	g.waitSummary(g.source(source), "1 FIN_WAIT_2:FIN_WAIT_2")
}

// A SYN with a new number in PROXY:SRC replaces the old one.
func TestNewNumber(t *testing.T) {
	under(t, "synproxy", places, Families, func(t *testing.T, policy string, at place, f Family) {
		s := newStranger(t, guard(t, policy, at, f, 10, AcceptOptions{}), 0)
		s.open(s.source(1)) // so that the server is known
		old := s.ask(0, rawPacket{})
		const isn = strangerISN + 100_000
		s.say(0, rawPacket{seq: isn, flags: flagSYN})
		answer := s.heard.next(t, s.srv.Addr(), s.port(0))
		if !answer.SYN || answer.Ack != isn+1 || answer.Seq == old.Seq {
			t.Fatalf("the second SYN is answered with %+v", answer)
		}
		s.waitSummary(s.from, "1 PROXY:SRC")
		s.complete(0, old)
		if refusal := s.heard.next(t, s.srv.Addr(), s.port(0)); !refusal.RST || refusal.Seq != old.Seq+1 {
			t.Errorf("the ACK of the old one is answered with %+v, want a reset", refusal)
		}
		s.waitSummary(s.from, "1 PROXY:SRC")
		s.say(0, rawPacket{seq: isn + 1, ack: answer.Seq + 1, flags: flagACK})
		s.waitSummary(s.from, "1 ESTABLISHED:ESTABLISHED")
		if n := len(s.held(s.from)); n != 1 {
			t.Errorf("the server holds %d", n)
		}
	})
}

// A client that gives up and tries again from the same port is served at once,
// however far the first try has come. What the firewall says to the client about
// the first try, or the client to it, is lost.
func TestTriesAgain(t *testing.T) {
	for _, policy := range policies {
		under(t, policy, places[:1], Families, func(t *testing.T, policy string, at place, f Family) {
			t.Parallel() // it waits for what does not come
			g := guardWith(t, webConfig(policy, 10), at, f, AcceptOptions{Echo: true})
			g.teach(80)
			silence := drop{f, "PREROUTING", "--sport 80", true} // to the client
			mute := drop{f, "OUTPUT", "--tcp-flags RST RST", true}
			within := 500 * time.Millisecond
			if policy == "keep" {
				within += time.Second // the server clears its half of the first for the client's second SYN
			}
			g.tryAgain(20000, within, nil, silence)
			g.tryAgain(20001, within, []drop{{f, "PREROUTING", "--syn", true}}, mute)
			g.tryAgain(20002, within, []drop{{f, "OUTPUT", "--tcp-flags SYN,ACK SYN,ACK", true}}, mute)
			g.expectNoLosses()
		})
	}
}

// tryAgain has a client try while packets are lost at the server and the client,
// and then once more.
func (g *guarded) tryAgain(port uint16, within time.Duration, atServer []drop, atClient drop) {
	g.t.Helper()
	g.server().lose(g.t, atServer...)
	g.lab.Client.lose(g.t, atClient)
	from := netip.AddrPortFrom(g.source(int(port)), port)
	short, cancel := context.WithTimeout(g.ctx, 4*pause)
	defer cancel()
	if c, err := g.lab.Client.Dial(short, from, g.srv.Addr()); err == nil {
		abort(c)
	}
	before := summary(g.statesOf(from.Addr()))
	g.server().lossless(g.t, g.family)
	g.lab.Client.lossless(g.t, g.family)
	start := time.Now()
	c := must[*net.TCPConn](g.t, "dial again")(g.lab.Client.Dial(g.ctx, from, g.srv.Addr()))
	echo(g.t, c)
	if took := time.Since(start); took > within {
		g.t.Errorf("the second try, after the first was %q, takes %v", before, took)
	}
	g.waitSummary(from.Addr(), "1 ESTABLISHED:ESTABLISHED")
	if n := len(g.held(from.Addr())); n != 1 {
		g.t.Errorf("after %q the server holds %d", before, n)
	}
	g.t.Logf("after %q", before)
}
