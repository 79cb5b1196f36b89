package integration

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"

	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

// Somebody empties the kernel's conntrack table, again and again, while 200 connections
// talk: none is lost, all count on, and new ones get in up to the limit.
func TestFlushUnderLoad(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			all := guardAll(t, webConfig(policy, 10), AcceptOptions{Echo: true})
			b := keepBusy(t, all, 50)
			var opened sync.WaitGroup
			for k, g := range all {
				opened.Go(func() {
					h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 100), To: g.srv.Addr(), N: 20, Timeout: 10 * time.Second})
					if h.Count(Held) != 10 || h.Count(Refused)+h.Count(Reset) != 10 {
						t.Errorf("20 new ones meanwhile, %s, %v: %v", g.at.name, g.family, h)
					}
				})
			}
			for range 5 {
				all[0].damage(damage{commands: []string{"conntrack -F"}})
				time.Sleep(300 * time.Millisecond)
			}
			opened.Wait()
			b.expectNoneLost("conntrack -F")
			for k, g := range all {
				if n := g.counted(g.busySource(k, 0)); n != 10 {
					t.Errorf("%s, %v: %d count, want 10", g.at.name, g.family, n)
				}
			}
			all[0].expectNoLosses()
		})
	}
}

// mostEntries bounds the table that a test fills.
const mostEntries = 300_000

// While the kernel's conntrack table is full, what is established goes on and new
// connections fail, as the kernel drops them; the log says so, and when there is room
// again they get in.
func TestFullConntrackTable(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			all := guardAll(t, webConfig(policy, 10), AcceptOptions{Echo: true})
			g := all[0]
			b := keepBusy(t, all, 20)
			g.fillConntrack()
			b.takeWorst()
			for k, g := range all {
				h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 100), To: g.srv.Addr(), N: 2, Concurrency: 2, Timeout: time.Second})
				if h.Count(Held) != 0 {
					t.Errorf("new ones while it is full, %s, %v: %v", g.at.name, g.family, h)
				}
			}
			worst, rounds := b.takeWorst()
			t.Logf("while it is full: %d echoes, the longest after %v", rounds, worst)
			if rounds == 0 {
				t.Error("nobody hears an echo while it is full")
			}
			g.waitLogged("conntrack table is full", 1)
			g.damage(damage{commands: []string{"conntrack -F"}})
			for k, g := range all {
				h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 101), To: g.srv.Addr(), N: 5, Timeout: 10 * time.Second})
				if h.Count(Held) != 5 {
					t.Errorf("new ones after it, %s, %v: %v", g.at.name, g.family, h)
				}
			}
			b.expectNoneLost("full")
			g.waitLogged("conntrack table has room again", 1)
		})
	}
}

// fillConntrack fills the gateway's table with connections of others. Its size is the
// same in all namespaces, and not the test's to change.
func (g *guarded) fillConntrack() {
	g.t.Helper()
	err := g.lab.Gateway.Do(func() error {
		entries, limit, err := offload.Usage()
		if err != nil {
			return err
		}
		if limit > mostEntries {
			g.t.Skipf("the kernel's conntrack table has room for %d: too many to fill", limit)
		}
		table, err := offload.Open()
		if err != nil {
			return err
		}
		defer table.Close()
		for i := entries; i <= limit; i++ {
			o := packet.Offload{Timeout: time.Hour, Tuple: packet.TupleFrom(strangersConn(i), netip.MustParseAddrPort("192.0.2.99:9"))}
			if err := table.Create(&o); err != nil {
				if n, _, failed := offload.Usage(); failed == nil && n >= limit {
					return nil
				}
				return err
			}
		}
		return nil
	})
	if err != nil {
		g.t.Fatalf("fill the conntrack table: %v", err)
	}
}

// strangersConn is the i-th client of somebody else's.
func strangersConn(i int) netip.AddrPort {
	a := [4]byte{198, 19}
	binary.BigEndian.PutUint16(a[2:], uint16(i>>4))
	return netip.AddrPortFrom(netip.AddrFrom4(a), uint16(1024+i&15))
}
