package integration

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/seedtest"
)

// A blind attacker knows addresses and ports of a connection, and guesses its numbers.
// A guess is one of its packets; its numbers are relative to what the side in whose
// name it is sent would say next.
type guess struct {
	name     string
	flags    byte
	seq, ack uint32
	payload  string
}

// How far guesses are off: within the window, as old as the window is wide, and out of
// all windows.
const (
	within  = 1000
	old     = ^uint32(1<<20 - 1) // -1 MiB
	outside = 1 << 30
)

var guesses = []guess{
	{name: "reset within the window", flags: flagRST, seq: within},
	{name: "reset with ACK within the window", flags: flagRST | flagACK, seq: within, ack: outside},
	{name: "reset out of the window", flags: flagRST, seq: outside},
	{name: "old reset", flags: flagRST, seq: old},
	{name: "SYN", flags: flagSYN, seq: outside},
	{name: "SYN within the window", flags: flagSYN, seq: within},
	{name: "SYN with the exact number", flags: flagSYN},
	{name: "SYN+ACK", flags: flagSYN | flagACK, seq: outside, ack: outside},
	{name: "SYN+ACK with the exact number", flags: flagSYN | flagACK, ack: outside},
	{name: "FIN out of the window", flags: flagFIN | flagACK, seq: outside},
	{name: "old FIN", flags: flagFIN | flagACK, seq: old},
	{name: "FIN that acknowledges what was not sent", flags: flagFIN | flagACK, ack: outside},
	{name: "FIN within the window that acknowledges what was not sent", flags: flagFIN | flagACK, seq: within, ack: outside},
	{name: "FIN without ACK", flags: flagFIN, seq: within},
	{name: "data out of the window", flags: flagPSH | flagACK, seq: outside, payload: "forged"},
	{name: "old data", flags: flagPSH | flagACK, seq: old, payload: "forged"},
	{name: "data that acknowledges what was not sent", flags: flagPSH | flagACK, ack: outside, payload: "forged"},
	{name: "ACK of nothing", flags: flagACK, seq: outside, ack: outside},
}

// A blindSpot is a place to send from in the name of one side.
type blindSpot struct {
	name       string
	asServer   bool
	from, to   func(*Lab) linkEnd
	atServerOf bool // with the numbers the server's socket has, which differ where they are translated
}

var blindSpots = []blindSpot{
	{"in the client's name", false, clientEnd, gatewayToClients, false},
	{"in the server's name, from where clients are", true, clientEnd, gatewayToClients, false},
	{"in the server's name, from where the server is", true, serverEnd, gatewayToServer, true},
	{"in the client's name, from where the server is", false, serverEnd, gatewayToServer, true},
}

func clientEnd(l *Lab) linkEnd        { return linkEnd{l.Client, "eth0"} }
func gatewayToClients(l *Lab) linkEnd { return linkEnd{l.Gateway, "eth0"} }
func serverEnd(l *Lab) linkEnd        { return linkEnd{l.Server, "eth0"} }
func gatewayToServer(l *Lab) linkEnd  { return linkEnd{l.Gateway, "eth1"} }

// What a blind attacker sends ends no connection and frees no slot, of proxied and of
// kept connections, in the name of either side.
func TestBlindAttackers(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{Echo: true})
		for i, spot := range blindSpots {
			if spot.atServerOf && at.name == "local" {
				continue // there is no wire to such a server
			}
			b := &blind{guarded: g, spot: spot, wire: openLink(t, spot.from(g.lab), spot.to(g.lab), f)}
			for k, what := range guesses {
				b.try(g.source(100*i+k), what)
			}
		}
	})
}

type blind struct {
	*guarded
	spot blindSpot
	wire *rawWire
}

// try opens a connection, guesses at it, and looks that it lives and counts.
func (b *blind) try(from netip.Addr, what guess) {
	b.t.Helper()
	p := b.open(from)
	echo(b.t, p.client)
	b.send(p, what)
	time.Sleep(pause)
	if err := sayWord(p.client); err != nil {
		b.t.Errorf("%s, %s: the connection is lost: %v", b.spot.name, what.name, err)
	}
	states := b.statesOf(from)
	if len(states) != 1 || states[0].State != "ESTABLISHED:ESTABLISHED" || !states[0].Counts {
		b.t.Errorf("%s, %s: %s", b.spot.name, what.name, summary(states))
	}
	abort(p.client)
}

// send sends a guess in the name of the spot's side.
func (b *blind) send(p pair, what guess) {
	b.t.Helper()
	near := p.client
	if b.spot.atServerOf {
		near = p.server
	}
	seq, ack, err := numbers(near)
	if err != nil {
		b.t.Fatalf("sequence numbers: %v", err)
	}
	client, server := addrPortOf(p.client.LocalAddr()), addrPortOf(p.client.RemoteAddr())
	src, dst := client, server
	if b.spot.asServer {
		src, dst = server, client
	}
	if b.spot.asServer != b.spot.atServerOf {
		seq, ack = ack, seq // those of the other side
	}
	if b.spot.atServerOf && !b.spot.asServer {
		// What the client acknowledges is translated on its way: a guess that is to be off
		// by so much is off by that from the number before.
		if _, ack, err = numbers(p.client); err != nil {
			b.t.Fatalf("sequence numbers: %v", err)
		}
	}
	r := rawPacket{src: src, dst: dst, seq: seq + what.seq, ack: ack + what.ack, flags: what.flags, payload: []byte(what.payload)}
	if err := b.wire.send(r.octets()); err != nil {
		b.t.Fatal(err)
	}
}

// A handshake that a blind attacker guesses at meanwhile comes to a good end: here it
// waits for the SYN+ACK to the client, which is lost the first time.
func TestBlindAtHandshake(t *testing.T) {
	under(t, "synproxy", places[:1], Families, testBlindAtHandshake)
	under(t, "keep", places[:1], Families, testBlindAtHandshake)
	under(t, "cookies", places[:1], Families, testBlindAtHandshake)
}

func testBlindAtHandshake(t *testing.T, policy string, at place, f Family) {
	g := guardWith(t, webConfig(policy, 10), at, f, AcceptOptions{Echo: true})
	g.teach(80)
	for i, spot := range blindSpots[:2] {
		b := &blind{guarded: g, spot: spot, wire: openLink(t, spot.from(g.lab), spot.to(g.lab), f)}
		from := netip.AddrPortFrom(g.source(10+i), uint16(30000+i))
		match := fmt.Sprintf("--dport %d --tcp-flags SYN,ACK SYN,ACK", from.Port())
		g.lab.Client.lose(t, drop{family: f, chain: "PREROUTING", match: match})
		dialed := make(chan error, 1)
		var c *net.TCPConn
		go func() {
			var err error
			c, err = g.lab.Client.Dial(g.ctx, from, g.srv.Addr())
			dialed <- err
		}()
		time.Sleep(200 * time.Millisecond) // the SYN+ACK is lost, and sent again after a second
		b.guessAtHandshake(from)
		if err := <-dialed; err != nil {
			t.Errorf("%s: the handshake is lost: %v", spot.name, err)
			continue
		}
		if err := sayWord(c); err != nil {
			t.Errorf("%s: the connection is lost: %v", spot.name, err)
		}
		if n := g.counted(from.Addr()); n != 1 {
			t.Errorf("%s: %d count, want 1", spot.name, n)
		}
		_ = c.Close()
	}
	if n := g.srv.Count(); n != 3 { // the one that taught, too
		t.Errorf("the server has accepted %d, want 3", n)
	}
}

// guessAtHandshake sends what is no SYN of the client's: that would be a new connection.
func (b *blind) guessAtHandshake(from netip.AddrPort) {
	b.t.Helper()
	r := seedtest.Rand(b.t)
	src, dst := from, b.srv.Addr()
	if b.spot.asServer {
		src, dst = dst, src
	}
	for _, flags := range []byte{flagACK, flagRST, flagRST | flagACK, flagFIN | flagACK, flagPSH | flagACK, flagSYN | flagACK} {
		for range 50 {
			p := rawPacket{src: src, dst: dst, seq: r.Uint32(), ack: r.Uint32(), flags: flags, payload: []byte("forged")}
			if flags&flagSYN != 0 {
				p.payload = nil
			}
			if err := b.wire.send(p.octets()); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// The limits that a victim could be made to use up by packets in its name.
const quotaRule = `
[[rule]]
name = "web"
on = ["eth0"]
port = [80]
state = %q
max_src_conn = %d
max_src_conn_rate = "10/60s"
max_src_states = 10
overload = "abusers"
flush = "global"

[table.abusers]
`

// SYNs, and ACKs that guess, in the name of a victim use up none of its quotas, put it
// into no table and end none of its connections.
func TestBlindAtQuotas(t *testing.T) {
	for _, policy := range policies {
		under(t, policy, places, Families, func(t *testing.T, policy string, at place, f Family) {
			g := guardWith(t, policyConfig(policy, quotaRule, 10), at, f, AcceptOptions{Echo: true})
			victim := g.source(1)
			held := g.lab.Client.Hold(g.ctx, HoldOptions{From: victim, To: g.srv.Addr(), N: 5})
			if held.Count(Held) != 5 {
				t.Fatalf("%v", held)
			}
			wire, r := openWire(t, g.lab, f), seedtest.Rand(t)
			g.lab.Client.lose(t, drop{family: f, chain: "PREROUTING", match: "--dport 1024:9999", all: true}) // the victim answers nothing
			for i := range 300 {
				src := netip.AddrPortFrom(victim, uint16(1024+i))
				for _, flags := range []byte{flagSYN, flagACK, flagACK | flagPSH} {
					p := rawPacket{src: src, dst: g.srv.Addr(), seq: r.Uint32(), ack: r.Uint32(), flags: flags}
					if err := wire.send(p.octets()); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(pause)
			g.lab.Client.lossless(t, f)
			more := g.lab.Client.Hold(g.ctx, HoldOptions{From: victim, To: g.srv.Addr(), N: 5})
			if more.Count(Held) != 5 {
				t.Errorf("five more of the victim's: %v", more)
			}
			for _, c := range append(held.Conns(), more.Conns()...) {
				if err := sayWord(c); err != nil {
					t.Errorf("a connection of the victim's is lost: %v", err)
				}
			}
			if n := g.counted(victim); n != 10 {
				t.Errorf("%d count, want 10: %s", n, summary(g.statesOf(victim)))
			}
			if n := g.refusedBy("max-src-conn", "max-src-conn-rate", "max-src-states"); n != 0 {
				t.Errorf("%d refused", n)
			}
		})
	}
}

// refusedBy adds up what limits have refused.
func (g *guarded) refusedBy(names ...string) (n uint64) {
	g.t.Helper()
	i := g.info()
	for _, c := range i.Limits {
		for _, name := range names {
			if c.Name == name {
				n += c.Packets
			}
		}
	}
	return n
}
