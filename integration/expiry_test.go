package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

const expiringRule = `
[[rule]]
name = "web"
port = [80]
state = "%s"
max_src_conn = 1
timeouts = { "tcp.established" = "2s" }
`

// A connection that carries something lives on, however long ago a packet of it
// came to user space. One that is idle for its time is reset at both ends, and
// its slot goes only when the server has let it go.
func TestIdleConnectionEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel() // each waits for seconds
		ctx := testContext(t)
		l := newLab(t, Options{})
		startFirewall(t, l, fmt.Sprintf(expiringRule, policy))
		srv := must[*AcceptCounter](t, "listen")(at.ns(l).CountAccepts(netip.AddrPortFrom(at.addr(f), 80), AcceptOptions{Echo: true}))
		h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 1})
		if h.Count(Held) != 1 {
			t.Fatalf("%v", h)
		}
		for range 6 { // longer than its time
			time.Sleep(400 * time.Millisecond)
			echo(t, h.Conns()[0])
		}
		expectReset(t, h.Conns()[0], 6*time.Second)
		again := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 1})
		if again.Count(Held) != 1 {
			t.Errorf("after its time: %v", again)
		}
		if left := must[Sockets](t, "sockets")(at.ns(l).Sockets(Established, CloseWait)).Local(80); len(left) != 1 {
			t.Errorf("the server holds %d connections, want 1", len(left))
		}
	})
}

func expectReset(t *testing.T, c *net.TCPConn, within time.Duration) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client hears %v, want a reset", err)
	}
}
