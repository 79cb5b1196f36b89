package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// What the kernel drops while the daemon does not keep up shows in info.
func TestInfoTellsOfLosses(t *testing.T) {
	config := "[daemon]\nqueues = 1\n" + fmt.Sprintf(webRule, "synproxy", 10)
	g := guardWith(t, config, places[0], IPv4, AcceptOptions{Echo: true, CloseOnEOF: true})
	g.teach(80) // else the server's answer to the first SYN would be one packet more
	g.waitSummary(g.source(1), "1 FIN_WAIT_2:FIN_WAIT_2")
	g.expectNoLosses()
	const room, sent = 16384, 20_000 // of the queue, and more
	g.floodStopped(sent)
	full, userFull := g.counter("queue-dropped"), g.counter("queue-user-dropped")
	// A signal takes its time: the daemon may read one more batch.
	const batch = 64
	if lost := full + userFull; lost > sent-room || lost < sent-room-batch {
		t.Errorf("queue-dropped %d, queue-user-dropped %d, and %d were too many", full, userFull, sent-room)
	}
}

// floodStopped stops the daemon, sends SYNs from nowhere, and lets it go on.
func (g *guarded) floodStopped(n int) {
	g.t.Helper()
	wire := openWire(g.t, g.lab, g.family)
	g.stopped(func() {
		for i := range n {
			p := rawPacket{src: netip.AddrPortFrom(AbsentAddr(g.family, i), 1024), dst: g.srv.Addr(), flags: flagSYN}
			if err := wire.send(p.octets()); err != nil {
				g.t.Error(err)
				break
			}
		}
	})
}

// A daemon that is stopped for two seconds under load, with more packets than its
// queues hold, loses no connection; who came meanwhile gets in, and the log has one line.
func TestStoppedUnderLoad(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			all := guardAll(t, "[daemon]\nqueues = 1\n"+webConfig(policy, 10), AcceptOptions{Echo: true})
			b := keepBusy(t, all, 50)
			var came sync.WaitGroup
			for k, g := range all {
				came.Go(func() {
					time.Sleep(100 * time.Millisecond)
					h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 100), To: g.srv.Addr(), N: 5, Concurrency: 5, Timeout: 15 * time.Second})
					if h.Count(Held) != 5 {
						t.Errorf("came meanwhile, %s, %v: %v", g.at.name, g.family, h)
					}
				})
			}
			if err := all[0].fw.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			all[0].floodStopped(25_000)
			if err := all[0].fw.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			if err := all[0].fw.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			came.Wait()
			b.expectNoneLost("stopped")
			if n := all[0].counter("queue-dropped") + all[0].counter("queue-user-dropped"); n == 0 {
				t.Error("nothing was lost: the test does not reach what it is about")
			}
			all[0].waitLogged("packets were dropped before they were judged", 1)
		})
	}
}

// Closings that the daemon was not told of, for want of room, it learns of from the
// kernel: what has closed counts no more, and what has not still does.
func TestMissedClosings(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			g := guard(t, policy, places[0], IPv4, 3, AcceptOptions{Echo: true})
			from, other := g.source(1), g.open(g.source(2))
			var held []pair
			for range 3 {
				held = append(held, g.open(from))
			}
			g.stopped(func() {
				g.copyMany(other, 60_000)
				for _, p := range held[:2] {
					_ = p.server.Close()
				}
			})
			g.waitSummary(from, "1 ESTABLISHED:ESTABLISHED, 2 FIN_WAIT_2:ESTABLISHED")
			h := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: 10})
			if h.Count(Held) != 2 {
				t.Errorf("beside one that is open: %v, want 2 held", h)
			}
			g.waitSummary(g.source(2), "1 ESTABLISHED:ESTABLISHED")
			if log := g.fw.Log(); !strings.Contains(log, "closings were not seen") {
				t.Error("nothing was missed: the test does not reach what it is about")
			}
		})
	}
}

// stopped does something while the daemon is stopped.
func (g *guarded) stopped(do func()) {
	g.t.Helper()
	if err := g.fw.Signal(syscall.SIGSTOP); err != nil {
		g.t.Fatal(err)
	}
	do()
	if err := g.fw.Signal(syscall.SIGCONT); err != nil {
		g.t.Fatal(err)
	}
}

// copyMany sends FINs in the client's name that nobody obeys, and that the kernel copies.
func (g *guarded) copyMany(p pair, n int) {
	g.t.Helper()
	wire := openWire(g.t, g.lab, g.family)
	fin := g.nextFIN(p)
	fin.seq += old
	for range n {
		if err := wire.send(fin.octets()); err != nil {
			g.t.Fatal(err)
		}
	}
}
