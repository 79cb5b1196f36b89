package integration

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killTime is how long it may take until both ends of a connection that is killed
// have heard of it: the time of two round trips, and of what starts a program.
const killTime = time.Second

// Both ends of a killed connection are reset, whatever it has carried: the numbers are
// those they expect. It counts no more, and the kernel's entry is gone.
func TestKillState(t *testing.T) {
	eachServer(t, AcceptOptions{}, func(g *guarded, first int) {
		for i, tt := range []struct {
			after string
			do    func(p pair)
		}{
			{"nothing", func(pair) {}},
			{"data both ways", func(p pair) { g.carry(p, 300_000) }},
			{"data the client does not read", func(p pair) { g.fill(p.server) }},
			{"data the server does not read", func(p pair) { g.fill(p.client) }},
			{"the client's FIN", func(p pair) { g.carry(p, 1000); _ = p.client.CloseWrite(); g.drained(p.server) }},
			{"the server's FIN", func(p pair) { g.carry(p, 1000); _ = p.server.CloseWrite(); g.drained(p.client) }},
		} {
			g.killed(g.source(first+i), tt.after, tt.do)
		}
	})
}

func (g *guarded) killed(source netip.Addr, after string, do func(pair)) {
	g.t.Helper()
	p := g.open(source)
	defer p.client.Close()
	defer p.server.Close()
	do(p)
	began := time.Now()
	out, err := g.fw.Command(g.ctx, "kill", source.String())
	if err != nil || strings.TrimSpace(out) != "killed 1 states from 1 sources and 0 destinations" {
		g.t.Fatalf("after %s: %v, %s", after, err, out)
	}
	if got := g.statesOf(source); len(got) != 0 {
		g.t.Errorf("after %s: states %s", after, summary(got))
	}
	for name, c := range map[string]*net.TCPConn{"client": p.client, "server": p.server} {
		_ = c.SetDeadline(began.Add(killTime))
		if err := untilError(c); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			g.t.Errorf("after %s: the %s hears %v, want a reset", after, name, err)
		}
	}
	g.t.Logf("after %s: both have heard in %v", after, time.Since(began).Round(time.Millisecond))
	if err := Poll(g.ctx, func() bool { return !g.entryOf(source) }); err != nil {
		g.t.Errorf("after %s: the kernel has an entry yet", after)
	}
}

// untilError reads and writes until either fails.
func untilError(c net.Conn) error {
	for {
		if _, err := io.Copy(io.Discard, c); err != nil {
			return err
		}
		// The other side's FIN: what is written tells.
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// carry has both sides send some octets, and read them.
func (g *guarded) carry(p pair, n int64) {
	g.t.Helper()
	for _, way := range [][2]*net.TCPConn{{p.client, p.server}, {p.server, p.client}} {
		go func() { _, _ = way[0].Write(make([]byte, n)) }()
		_ = way[1].SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.CopyN(io.Discard, way[1], n); err != nil {
			g.t.Fatalf("carry: %v", err)
		}
		_ = way[1].SetReadDeadline(time.Time{})
	}
}

// fill sends until no more can be.
func (g *guarded) fill(c *net.TCPConn) {
	g.t.Helper()
	_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			return
		}
	}
}

// drained reads to the other side's FIN.
func (g *guarded) drained(c *net.TCPConn) {
	g.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil {
		g.t.Fatalf("no FIN: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

// entryOf says whether the kernel has an entry of a client's.
func (g *guarded) entryOf(source netip.Addr) bool {
	g.t.Helper()
	out := must[[]byte](g.t, "conntrack -L")(g.lab.Gateway.Command(g.ctx, "conntrack", "-L", "-f", familyName(g.family), "-s", source.String()).Output())
	return len(out) > 0
}

func familyName(f Family) string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}
