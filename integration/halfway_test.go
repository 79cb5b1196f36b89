package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

// halfway is how many handshakes are under way when the daemon dies.
const halfway = 8

// A kept handshake that is under way when the daemon dies goes on with the next one, and
// is admitted as any other: of one source no more than the limit, and never before the
// client has answered its server.
func TestHandshakesOutliveDaemon(t *testing.T) {
	for i, at := range places {
		for end, stop := range map[string]func(*Firewall) error{"SIGTERM": (*Firewall).Stop, "SIGKILL": (*Firewall).Kill} {
			t.Run(at.name+"/"+end, func(t *testing.T) {
				g := guard(t, "keep", at, Families[i], 3, AcceptOptions{Echo: true})
				g.halfway(stop)
			})
		}
	}
}

// begins has a source begin handshakes whose last ACK is lost, and whatever follows, and
// waits until the firewall knows.
func (g *guarded) begins(n int) (conns []*net.TCPConn) {
	g.t.Helper()
	conns = g.dials(n)
	g.waitSummary(g.source(0), fmt.Sprintf("%d SYN_SENT:ESTABLISHED", n))
	return conns
}

// dials is begins with no firewall there.
func (g *guarded) dials(n int) (conns []*net.TCPConn) {
	g.t.Helper()
	client := g.lab.Client
	client.lose(g.t, drop{g.family, "OUTPUT", "--dport 80 ! --tcp-flags SYN,ACK SYN", true})
	for range n {
		c := must[*net.TCPConn](g.t, "dial")(client.Dial(g.ctx, netip.AddrPortFrom(g.source(0), 0), g.srv.Addr()))
		g.lab.onClose(func() error { _ = c.Close(); return nil })
		conns = append(conns, c)
	}
	return conns
}

func (g *guarded) halfway(stop func(*Firewall) error) {
	g.t.Helper()
	conns := g.begins(halfway)
	g.must("stop", stop(g.fw))
	g.finishes(conns)
}

// Handshakes that began while there was no daemon, and nobody kept them from their
// server, are admitted by the next one as any other.
func TestHandshakesBegunMeanwhile(t *testing.T) {
	for i, at := range places {
		t.Run(at.name, func(t *testing.T) {
			config := "[daemon]\nwhen_down = \"open\"\n" + webConfig("keep", 3)
			g := guardWith(t, config, at, Families[i], AcceptOptions{Echo: true})
			g.must("kill", g.fw.Kill())
			g.finishes(g.dials(halfway))
		})
	}
}

// finishes starts the firewall, and then has handshakes of one source finish, of which
// three are admitted.
func (g *guarded) finishes(conns []*net.TCPConn) {
	g.t.Helper()
	began := time.Now()
	g.must("start", g.fw.Start(g.ctx))
	watch := g.sample(g.source(0))
	g.lab.Client.lossless(g.t, g.family)
	outcomes := make([]Outcome, halfway)
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(g.ctx, sessionPatience)
			defer cancel()
			outcomes[i] = outcomeOf(prove(ctx, c, HoldOptions{}))
		})
	}
	wg.Wait()
	watch.expect(g, 3)
	count := func(o Outcome) int {
		return len(slices.DeleteFunc(slices.Clone(outcomes), func(p Outcome) bool { return p != o }))
	}
	if count(Held) != 3 || count(Reset) != halfway-3 || g.srv.Count() != 3 {
		g.t.Errorf("%v, %d accepted, want 3 held", outcomes, g.srv.Count())
	}
	if n := g.counted(g.source(0)); n != 3 {
		g.t.Errorf("%d count", n)
	}
	g.t.Logf("all are served or refused %v after the daemon was started", time.Since(began).Round(time.Millisecond))
}

// Handshakes that were under way when the daemon ended, and that are done before the next
// one is there, as nobody keeps them from it, are of connections that go on and count.
func TestHandshakesDoneMeanwhile(t *testing.T) {
	for i, at := range places {
		for end, stop := range map[string]func(*Firewall) error{"SIGTERM": (*Firewall).Stop, "SIGKILL": (*Firewall).Kill} {
			t.Run(at.name+"/"+end, func(t *testing.T) {
				config := "[daemon]\nwhen_down = \"open\"\n" + webConfig("keep", 3)
				g := guardWith(t, config, at, Families[i], AcceptOptions{Echo: true})
				conns := g.begins(2)
				g.must("stop", stop(g.fw))
				g.lab.Client.lossless(t, g.family)
				for _, c := range conns {
					echo(t, c)
				}
				g.must("start", g.fw.Start(g.ctx))
				for _, c := range conns {
					echo(t, c)
				}
				g.waitSummary(g.source(0), "2 ESTABLISHED:ESTABLISHED")
				g.gets(0, 1)
				g.isRefused(0, "one more than 3")
			})
		}
	}
}

func (g *guarded) must(what string, err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatalf("%s: %v", what, err)
	}
}
