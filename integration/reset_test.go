package integration

import (
	"io"
	"testing"
	"time"
)

// A server's reset reaches its client, whatever was said before.
func TestServerResetsAfterData(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, 10, AcceptOptions{})
		for i := range 2 {
			p := g.open(g.source(i))
			if _, err := p.server.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			_ = p.client.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, err := io.ReadFull(p.client, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			abort(p.server)
			_ = p.client.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, err := p.client.Read(make([]byte, 1)); outcomeOf(err) != Reset {
				t.Errorf("the client sees %v, want a reset", err)
			}
		}
	})
}
