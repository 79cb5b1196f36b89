package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A server that speaks first is heard.
func TestServerSpeaksFirst(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{Banner: []byte("220 ready\r\n")})
		for i := range 3 {
			h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(i), To: g.srv.Addr(), N: 5, Banner: true, Expect: 11})
			if h.Count(Held) != 5 {
				t.Errorf("client %d: %v", i, h)
			}
		}
	})
}

// A client that speaks first, with more than a segment, is heard at once, the
// first client of an unknown server included.
func TestClientSpeaksFirst(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{Echo: true})
		h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(0), To: g.srv.Addr(), N: 5, Send: bytes.Repeat([]byte("data"), 5000)})
		if h.Count(Held) != 5 {
			t.Errorf("%v", h)
		}
		for i, a := range h.Attempts {
			if a.Elapsed > 150*time.Millisecond {
				t.Errorf("connection %d: echoed after %v, as if a timer had to help", i, a.Elapsed)
			}
		}
	})
}

// A client asks, closes its side and is answered much later: after the kernel
// has forgotten the half-closed connection, even.
func TestHalfClosedRequest(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel() // it waits, mostly
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		for _, state := range []string{"fin_wait", "close_wait", "last_ack"} {
			if err := g.lab.Gateway.Sysctl("net.netfilter.nf_conntrack_tcp_timeout_"+state, "1"); err != nil {
				t.Fatal(err)
			}
		}
		for i, wait := range []time.Duration{100 * time.Millisecond, 2500 * time.Millisecond} {
			g.halfClosedRequest(g.source(i), wait)
		}
	})
}

func (g *guarded) halfClosedRequest(from netip.Addr, wait time.Duration) {
	g.t.Helper()
	p := g.open(from)
	deadline := time.Now().Add(wait + 5*time.Second)
	_, _ = p.client.SetDeadline(deadline), p.server.SetDeadline(deadline)
	answer := bytes.Repeat([]byte("answer\n"), 100_000)
	if _, err := p.client.Write([]byte("request")); err != nil {
		g.t.Fatal(err)
	}
	_ = p.client.CloseWrite()
	if got, err := io.ReadAll(p.server); err != nil || string(got) != "request" {
		g.t.Fatalf("the server reads %q, %v", got, err)
	}
	time.Sleep(wait)
	g.waitSummary(from, "1 ESTABLISHED:FIN_WAIT_2")
	go func() {
		_, _ = p.server.Write(answer) // the client notices
		_ = p.server.Close()
	}()
	got, err := io.ReadAll(p.client)
	if err != nil || !bytes.Equal(got, answer) {
		g.t.Errorf("after %v: the client reads %d octets of %d, %v", wait, len(got), len(answer), err)
	}
	// A server that had to send again may have reset what it heard after it had let go.
	g.waitSummary(from, "1 FIN_WAIT_2:FIN_WAIT_2", "1 TIME_WAIT:TIME_WAIT")
}

// The client of a port on which nobody listens hears it at once.
func TestClosedPort(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		_ = g.srv.Close()
		h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(0), To: g.addr(80), N: 20})
		if h.Count(Refused)+h.Count(Reset) != 20 {
			t.Errorf("%v", h)
		}
		for _, a := range h.Attempts {
			if a.Elapsed > 500*time.Millisecond {
				t.Errorf("%v after %v", a.Outcome, a.Elapsed)
			}
		}
	})
}

const silentRule = `
[[rule]]
name = "web"
on = ["eth0"]
port = [80]
state = %q
max_src_conn = 3
refuse = "drop"
`

// With refuse = "drop" a client over the limit hears nothing, and the server
// hears nothing of it.
func TestRefuseDrop(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel() // it waits, mostly
		g := guardWith(t, fmt.Sprintf(silentRule, policy), at, f, AcceptOptions{Echo: true})
		from := g.source(0)
		held := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: 3})
		before := g.segmentsIn()
		over := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: 5, Concurrency: 5, Timeout: 1200 * time.Millisecond})
		if held.Count(Held) != 3 || over.Count(TimedOut) != 5 {
			t.Errorf("%v; then %v, want all timed out", held, over)
		}
		if n := g.segmentsIn() - before; n > 0 || before == 0 {
			t.Errorf("%d segments came to the server, and %d before", n, before)
		}
	})
}

// segmentsIn is how many TCP segments the server's host has received.
func (g *guarded) segmentsIn() int {
	g.t.Helper()
	total := 0
	err := g.server().Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var values []string
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "Tcp:") {
				values = strings.Fields(line) // the second such line has the numbers
			}
		}
		total, err = strconv.Atoi(values[10]) // InSegs
		return err
	})
	if err != nil {
		g.t.Fatalf("count segments: %v", err)
	}
	return total
}
