package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy/cookie"
)

// crowd is many who use one engine at the same time.
type crowd struct {
	engine *Engine
	now    atomic.Int64
	wg     sync.WaitGroup
	left   atomic.Int32 // of those who send packets; the others go on as long
}

// tickOfCrowd is so short that no packet is under way for as long as idGrace.
const tickOfCrowd = time.Millisecond

// packets sends the packets of short connections, in any order, until there were
// enough.
func (c *crowd) packets(seed uint64, rounds int) {
	c.left.Add(1)
	c.wg.Go(func() {
		defer c.left.Add(-1)
		r := rand.New(rand.NewPCG(seed, 0))
		var d Decision
		for range rounds {
			p := raced(r, &d)
			c.pass(p)
			c.engine.Handle(c.time(), p, &d)
			if d.Again {
				p.Noted = true
				c.engine.Handle(c.time(), p, &d)
			}
			if d.Offload.Op == packet.OffloadQuery {
				p.Kernel = packet.KernelAbsent
				c.engine.Handle(c.time(), p, &d)
			}
		}
	})
}

// pass lets a packet pass as the kernel would that reads what is granted.
func (c *crowd) pass(p *packet.Packet) {
	g := c.engine.grants
	g.mu.Lock() // the detector knows nothing of kernels
	defer g.mu.Unlock()
	switch {
	case p.Flags.Has(packet.SYN):
		p.Copied = g.table.Passes(p)
	case p.Conn == packet.ConnOpening:
		by, ok := g.table.Admits(p)
		if ok {
			p.Conn = packet.ConnEstablished
		}
		p.Copied, p.Admitted, p.Grant = ok, ok, by
	}
}

// raced is a packet at the numbers of a handshake; if a SYN was answered by the SYN
// proxy, that which proves its client.
func raced(r *rand.Rand, last *Decision) *packet.Packet {
	if s := last.Segments(); len(s) > 0 && s[0].Flags == packet.SYN|packet.ACK {
		return &packet.Packet{
			Tuple: s[0].Tuple.Reverse(), Seq: s[0].Ack, Ack: s[0].Seq + 1, Flags: packet.ACK, Window: 500,
			Conn: packet.ConnNew, InName: "eth0", InDev: 2,
		}
	}
	steps := []packet.Packet{
		{Seq: 100, Flags: packet.SYN, Conn: packet.ConnNone},
		{Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK, Conn: packet.ConnNone},
		{Seq: 101, Ack: 501, Flags: packet.ACK, Conn: packet.ConnOpening},
		{Seq: 501, Ack: 101, Flags: packet.FIN | packet.ACK, Conn: packet.ConnEstablished},
		{Seq: 101, Flags: packet.RST, Conn: packet.ConnEstablished},
	}
	p := steps[r.IntN(len(steps))]
	p.Tuple, p.InName, p.InDev, p.Window = tupleOf(byte(r.IntN(6)), 80+uint16(r.IntN(2))), "eth0", 2, 500
	if p.Seq >= 500 {
		p.Tuple, p.InName, p.InDev = p.Tuple.Reverse(), "eth1", 3
	}
	return &p
}

func (c *crowd) time() time.Duration { return time.Duration(c.now.Load()) }

// meanwhile does something again and again while packets come.
func (c *crowd) meanwhile(do func(i int)) {
	c.wg.Go(func() {
		for i := 0; c.left.Load() > 0; i++ {
			do(i)
		}
	})
}

// Whatever is done to an engine at the same time, its counts are right in the end, and
// nothing is left.
func TestManyAtOnce(t *testing.T) {
	for _, kills := range []bool{true, false} { // while connections are ended nothing is granted
		t.Run(fmt.Sprintf("kills %v", kills), func(t *testing.T) { testManyAtOnce(t, kills) })
	}
}

func testManyAtOnce(t *testing.T, kills bool) {
	scripts := [][]byte{{0, 0, 0xff, 1, 1, 0x7f, 2}, {2, 9, 0x3f, 1}, {3, 1, 0x1f, 2}, {0x10, 0x19, 0xff, 8, 0x4a, 0x25, 1}}
	config := func(i int) Config {
		script := slices.Clone(scripts[i%len(scripts)])
		return fuzzConfig(&script)
	}
	if !kills {
		config = func(i int) Config {
			return grantingConfig(rules.Rule{Name: "web", State: rules.Keep, MaxSrcConn: 10 + uint32(i%10)})
		}
	}
	c := crowd{engine: New(config(0), scenarioSeeds)}
	e := c.engine
	e.SetGrants(grant.New(grant.Memory(), 42))
	for i := range 3 {
		c.packets(uint64(i), 60_000)
	}
	ignore := func(*Decision) {}
	c.meanwhile(func(int) {
		c.now.Add(int64(tickOfCrowd))
		e.Tick(c.time(), ignore)
	})
	c.meanwhile(func(i int) {
		if kills || i%1000 == 0 {
			e.Reload(c.time(), config(i))
			e.Withdraw(c.time())
		}
	})
	c.meanwhile(func(i int) {
		if !kills {
			return
		}
		some := func(s *conntrack.State, rule string) bool { return s.ID%4 == 0 && rule == "web" }
		e.Kill(c.time(), some, i%2 == 0, ignore)
	})
	c.meanwhile(func(i int) {
		_ = e.States(c.time(), func(*Listed) error { return nil })
		_ = e.Sources(c.time(), func(*ListedSource) error { return nil })
		_ = e.Rules(func(*ListedRule) error { return nil })
		e.Pressures(func(Pressure) {})
		e.RotateKey(cookie.Key{uint64(i), 1})
	})
	c.wg.Wait()
	if err := e.Recount(); err != nil {
		t.Fatal(err)
	}
	if e.named("web").Name == "" || e.counters.Passed.Load() == 0 || !kills && e.counters.InKernel.Load() == 0 {
		t.Fatal("nothing was done")
	}
	z := fuzzed{t: t, engine: e, config: config(0), now: c.time(), bounds: boundsOf(e, c.time())}
	z.drain()
}
