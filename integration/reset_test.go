package integration

import (
	"errors"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// The client of a server that resets hears it, whatever was said before.
func TestServerResetHeard(t *testing.T) {
	eachServer(t, AcceptOptions{Echo: true}, func(g *guarded, first int) {
		g.serverResets(g.source(first), "nothing", func(pair) {})
		g.serverResets(g.source(first+1), "an echo", func(p pair) { echo(g.t, p.client) })
		g.serverResets(g.source(first+2), "the server's data", func(p pair) {
			_, _ = p.server.Write([]byte("hello"))
			_ = p.client.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, err := io.ReadFull(p.client, make([]byte, 5)); err != nil {
				g.t.Fatal(err)
			}
		})
	})
}

func (g *guarded) serverResets(source netip.Addr, what string, say func(pair)) {
	g.t.Helper()
	p := g.open(source)
	defer p.client.Close()
	say(p)
	abort(p.server)
	_ = p.client.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		g.t.Errorf("after %s: the client hears %v, want a reset", what, err)
	}
	g.waitSummary(source, "1 TIME_WAIT:TIME_WAIT")
}
