package integration

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"nfqfw/internal/seedtest"
)

const (
	overshootRounds = 125 // in each of the eight corners: a thousand
	overshootLimit  = 5
	overshootBurst  = 25
)

// Many connections at once, at random times, a thousand times over: each time
// the server accepts as many as it may, and never holds one more.
func TestNeverOvershoots(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		g := guard(t, policy, at, f, overshootLimit, AcceptOptions{})
		r := seedtest.Rand(t)
		from := g.source(0)
		watch := g.sample(from)
		accepted, rounds := 0, overshootRounds
		if raceEnabled {
			rounds /= 5 // the daemon takes its time then
		}
		for round := range rounds {
			clients := g.burst(from, accepted, r)
			accepted += overshootLimit
			if len(clients) != overshootLimit || g.srv.Count() != accepted {
				t.Errorf("round %d: %d connected and %d accepted, want %d", round, len(clients), g.srv.Count()-accepted+overshootLimit, overshootLimit)
				break
			}
			g.endAll(clients, g.srv.Conns()[accepted-overshootLimit:], r)
		}
		watch.expect(g, overshootLimit)
	})
}

// burst opens connections at random moments of a few milliseconds, and returns
// those that hold. The server has accepted so many before.
func (g *guarded) burst(from netip.Addr, accepted int, r *rand.Rand) []*net.TCPConn {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var clients []*net.TCPConn
	spread := []time.Duration{0, time.Millisecond, 4 * time.Millisecond}[r.IntN(3)]
	for range overshootBurst {
		delay := time.Duration(r.Int64N(int64(spread) + 1))
		wg.Go(func() {
			time.Sleep(delay)
			c, err := g.lab.Client.Dial(g.ctx, netip.AddrPortFrom(from, 0), g.srv.Addr())
			if err == nil && !g.survives(c, accepted) {
				_ = c.Close()
				return
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				clients = append(clients, c)
			}
		})
	}
	wg.Wait()
	return clients
}

// survives says whether a connection comes to its server: it is accepted, or
// the client hears a reset.
func (g *guarded) survives(c *net.TCPConn, since int) bool {
	alive := true
	client := addrPortOf(c.LocalAddr())
	_ = Poll(g.ctx, func() bool {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
		_, err := c.Read(make([]byte, 1))
		alive = outcomeOf(err) == TimedOut
		return !alive || g.srv.acceptedFrom(client, since) != nil
	})
	_ = c.SetReadDeadline(time.Time{})
	return alive
}

// endAll ends connections, each in a way of its own, and waits until none
// counts.
func (g *guarded) endAll(clients, servers []*net.TCPConn, r *rand.Rand) {
	g.t.Helper()
	for _, c := range append(append([]*net.TCPConn(nil), clients...), servers...) {
		switch r.IntN(3) {
		case 0:
			abort(c)
		case 1:
			_ = c.Close()
		}
	}
	for _, c := range append(append([]*net.TCPConn(nil), servers...), clients...) {
		_ = c.Close()
	}
	if err := Poll(g.ctx, func() bool { return g.counted(from(clients)) == 0 }); err != nil {
		g.t.Fatalf("all closed, and %d count: %s", g.counted(from(clients)), summary(g.statesOf(from(clients))))
	}
}

// from is the source of connections.
func from(clients []*net.TCPConn) netip.Addr { return addrPortOf(clients[0].LocalAddr()).Addr() }
