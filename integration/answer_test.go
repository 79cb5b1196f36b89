package integration

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
)

// answerConfig is a rule behind SYN cookies, and a table of which everybody is blocked.
var answerConfig = webConfig("cookies", 2) + `
[table.abusers]
[[rule]]
from = ["<abusers>"]
action = "block"
refuse = "reset"
`

// SYNs are answered in the kernel, with all that their server has; those of a client that has
// what its limit allows, or that is listed, are the engine's affair.
func TestAnswersInKernel(t *testing.T) {
	under(t, "cookies", places, Families, func(t *testing.T, _ string, at place, f Family) {
		g := guardWith(t, answerConfig, at, f, AcceptOptions{Echo: true})
		g.letAnswer()
		before := g.answeredInKernel()
		const strangers = 20
		var pairs []pair
		for i := range strangers {
			p := g.gets(10+i, 1)[0]
			exchange(t, p.client, 1<<16)
			pairs = append(pairs, p)
		}
		// A queue's first packet has it look at the interfaces, and whoever comes at that time is asked about.
		if n := g.answeredInKernel() - before; n < strangers-2 {
			t.Errorf("%d of %d were answered in the kernel", n, strangers)
		}
		for _, n := range []*Namespace{g.lab.Client, g.server()} {
			g.expectOptions(n, strangers, "ts sack", "wscale:")
			n.expectNoFault(t)
		}
		before = g.answeredInKernel()
		g.gets(10, 1)
		if n := g.answeredInKernel() - before; n != 1 {
			t.Errorf("of a client with one connection, of two, %d were answered in the kernel", n)
		}
		before = g.answeredInKernel()
		g.isRefused(10, "one of three, of two")
		if _, err := g.fw.Command(g.ctx, "table", "abusers", "add", g.source(50).String()); err != nil {
			t.Fatal(err)
		}
		g.isRefused(50, "listed")
		if n := g.answeredInKernel() - before; n != 0 {
			t.Errorf("of one too many, and one that is listed, %d were answered in the kernel", n)
		}
		g.expectNoLosses()
		runtime.KeepAlive(pairs) // not closed before they were looked at
	})
}

// letAnswer waits until the kernel answers strangers.
func (g *guarded) letAnswer() {
	g.t.Helper()
	g.teach(80)
	wire, before, i := openWire(g.t, g.lab, g.family), g.answeredInKernel(), 0
	err := Poll(g.ctx, func() bool {
		g.sendStranger(wire, i)
		i++
		return g.answeredInKernel() > before
	})
	if err != nil {
		g.t.Fatalf("the kernel answers nobody:\n%s", g.fw.Log())
	}
}

func (g *guarded) sendStranger(wire *rawWire, i int) {
	g.t.Helper()
	p := rawPacket{src: netip.AddrPortFrom(AbsentAddr(g.family, i), 1024), dst: g.srv.Addr(), flags: flagSYN}
	if err := wire.send(p.octets()); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guarded) answeredInKernel() uint64 {
	g.t.Helper()
	return g.info().Syncookies.InKernel
}

// Nobody is answered any more when the daemon was killed.
func TestAnswersEndWithTheDaemon(t *testing.T) {
	under(t, "cookies", places, Families[:1], func(t *testing.T, _ string, at place, f Family) {
		g := guardWith(t, answerConfig, at, f, AcceptOptions{Echo: true})
		g.letAnswer()
		if err := g.fw.Kill(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pause)
		heard := openCapture(t, g.lab)
		g.sendStranger(openWire(t, g.lab, f), 7)
		for end := time.Now().Add(pause); time.Now().Before(end); {
			if h := heard.hear(); h != nil && h.src == g.srv.Addr() {
				t.Errorf("the kernel answers, and there is no daemon: %+v", h.TCP)
			}
		}
		if err := g.fw.Start(g.ctx); err != nil {
			t.Fatal(err)
		}
		g.letAnswer()
	})
}

// A server that does not forward is answered for in the kernel if its answers have no other
// way than the one that SYNs come by.
func TestAnswersOfAServer(t *testing.T) {
	for _, f := range Families {
		t.Run(f.String(), func(t *testing.T) {
			g := guardWith(t, answerConfig, places[1], f, AcceptOptions{Echo: true})
			script := func(lines ...string) {
				for _, line := range lines {
					if err := g.lab.Gateway.Feed(g.ctx, line, "sh"); err != nil {
						t.Fatal(err)
					}
				}
			}
			script("for f in /proc/sys/net/ipv[46]/conf/*/forwarding; do echo 0 > $f; done")
			g.teach(80)
			wire := openWire(t, g.lab, f)
			for i := range 20 {
				g.sendStranger(wire, i)
				time.Sleep(pause / 10)
			}
			if n := g.answeredInKernel(); n != 0 {
				t.Errorf("%d were answered in the kernel, and answers may have another way", n)
			}
			script("ip link set eth1 down", "ip link set eth2 down")
			g.letAnswer()
			exchange(t, g.gets(10, 1)[0].client, 1<<16)
		})
	}
}

// Many ACKs that repeat no cookie are dropped in the kernel; those of sessions pass, and new
// clients are served meanwhile. A few are judged as ever, and who sends one is told.
func TestForgedACKsInKernel(t *testing.T) {
	under(t, "cookies", places, Families, func(t *testing.T, _ string, at place, f Family) {
		g := guardWith(t, answerConfig, at, f, AcceptOptions{Echo: true})
		g.letAnswer()
		session := g.gets(10, 1)[0]
		flood := make(chan FloodResult)
		before, queued := g.info().Syncookies.Invalid, must[uint64](t, "queues")(g.lab.Gateway.Queued())
		go func() {
			r, err := g.lab.Flood(g.ctx, FloodOptions{Kind: FloodACK, To: g.srv.Addr(), Rate: 20_000, Duration: time.Second, Most: 20_000})
			if err != nil {
				t.Errorf("flood: %v", err)
			}
			flood <- r
		}()
		time.Sleep(pause)
		for i := range 10 {
			exchange(t, session.client, 1<<12)
			exchange(t, g.gets(20+i, 1)[0].client, 1<<12)
		}
		sent := (<-flood).Sent
		if err := g.lab.Gateway.WaitJudged(g.ctx); err != nil {
			t.Fatal(err)
		}
		queued = must[uint64](t, "queues")(g.lab.Gateway.Queued()) - queued
		counted := g.info().Syncookies.Invalid - before
		if counted < uint64(sent)*8/10 || counted > uint64(sent) || queued > uint64(sent)/2 {
			t.Errorf("of %d ACKs that repeat no cookie %d are counted, and %d packets have come to user space", sent, counted, queued)
		}
		exchange(t, session.client, 1<<12)
		g.isTold(openWire(t, g.lab, f), g.source(60))
	})
}

// isTold has a client acknowledge what nobody has sent, again and again until it hears
// something.
func (g *guarded) isTold(wire *rawWire, source netip.Addr) {
	g.t.Helper()
	heard := openCapture(g.t, g.lab)
	p := rawPacket{src: netip.AddrPortFrom(source, 1024), dst: g.srv.Addr(), ack: 77, flags: flagACK}
	err := Poll(g.ctx, func() bool {
		if err := wire.send(p.octets()); err != nil {
			g.t.Fatal(err)
		}
		time.Sleep(pause)
		return heard.count(p.dst, p.src) > 0
	})
	if err != nil {
		g.t.Errorf("a client that repeats no cookie hears nothing")
	}
}
