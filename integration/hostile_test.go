package integration

import (
	"net"
	"testing"
	"time"
)

// A trick is what a client does with a connection to make the firewall believe
// that it has ended while the server still holds it.
type trick struct {
	name string
	do   func(h *hostile, c *net.TCPConn)
}

// Numbers are relative to what the client's socket would send next. Segments
// with a TTL of 1 come to the gateway and no further.
var tricks = []trick{
	{"inexact reset", func(h *hostile, c *net.TCPConn) {
		h.forge(c, rawPacket{seq: 1000, flags: flagRST})
	}},
	{"reset outside the window", func(h *hostile, c *net.TCPConn) {
		h.forge(c, rawPacket{seq: 1 << 30, flags: flagRST})
	}},
	{"exact reset that does not arrive", func(h *hostile, c *net.TCPConn) {
		h.forge(c, rawPacket{flags: flagRST, ttl: 1})
	}},
	{"reset after data that did not arrive", func(h *hostile, c *net.TCPConn) {
		h.forge(c,
			rawPacket{flags: flagACK | flagPSH, ttl: 1, payload: []byte("data")},
			rawPacket{seq: 4, flags: flagRST | flagACK})
	}},
	{"the same while the server may not challenge", func(h *hostile, c *net.TCPConn) {
		h.forge(c, rawPacket{seq: 1000, flags: flagRST}) // the answer is the last for half a second
		time.Sleep(5 * time.Millisecond)
		h.forge(c,
			rawPacket{flags: flagACK | flagPSH, ttl: 1, payload: []byte("data")},
			rawPacket{seq: 4, flags: flagRST | flagACK})
	}},
	{"wild reset after a half-close", func(h *hostile, c *net.TCPConn) {
		_ = c.CloseWrite()
		time.Sleep(5 * time.Millisecond)
		h.forge(c, rawPacket{seq: 1 << 30, flags: flagRST})
	}},
	{"reset after a FIN that did not arrive", func(h *hostile, c *net.TCPConn) {
		h.forge(c, rawPacket{seq: 1000, flags: flagRST})
		time.Sleep(5 * time.Millisecond)
		h.forge(c,
			rawPacket{flags: flagFIN | flagACK, ttl: 1},
			rawPacket{seq: 1, flags: flagRST})
	}},
	{"reset in a stream", func(h *hostile, c *net.TCPConn) {
		// The server has the data, and the gateway not yet the acknowledgment.
		h.forge(c,
			rawPacket{flags: flagACK | flagPSH, payload: []byte("data")},
			rawPacket{flags: flagRST})
	}},
}

// A client that sends resets the server does not obey gains nothing: the server
// never holds more than the limit.
func TestHostileResets(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		h := &hostile{guarded: g, wire: openWire(t, g.lab, f)}
		for i, k := range tricks {
			h.try(i, k)
		}
	})
}

type hostile struct {
	*guarded
	wire *rawWire
}

// try holds ten connections, plays the trick on each and opens ten more.
func (h *hostile) try(i int, k trick) {
	h.t.Helper()
	from := h.source(i)
	watch := h.sample(from)
	var pairs []pair
	for range 10 {
		pairs = append(pairs, h.open(from))
	}
	for _, p := range pairs {
		k.do(h, p.client)
	}
	for range 3 {
		h.lab.Client.Hold(h.ctx, HoldOptions{From: from, To: h.srv.Addr(), N: 10, Concurrency: 10, Send: []byte("."), Silence: pause})
	}
	watch.stop()
	held := len(h.held(from))
	h.t.Logf("%s: the server holds %d, at most %d in %d samples; %s", k.name, held, watch.Max, watch.Samples, summary(h.statesOf(from)))
	if watch.Err != nil || watch.Max > 10 || held > 10 {
		h.t.Errorf("%s: the server held %d, then %d, the limit is 10 (%v)", k.name, watch.Max, held, watch.Err)
	}
	if counted := h.counted(from); counted != held {
		h.t.Errorf("%s: %d count, and the server holds %d", k.name, counted, held)
	}
}

// forge sends segments in the name of a socket.
func (h *hostile) forge(c *net.TCPConn, segments ...rawPacket) {
	h.t.Helper()
	seq, ack, err := numbers(c)
	if err != nil {
		h.t.Fatalf("sequence numbers: %v", err)
	}
	for _, s := range segments {
		s.src, s.dst = addrPortOf(c.LocalAddr()), addrPortOf(c.RemoteAddr())
		s.seq, s.ack = s.seq+seq, ack
		if err := h.wire.send(s.octets()); err != nil {
			h.t.Fatal(err)
		}
	}
}
