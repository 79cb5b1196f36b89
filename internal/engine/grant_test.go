package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/rules"
)

// granting is an engine with a kernel that passes, and admits, what is granted.
type granting struct {
	*Engine
	t      *testing.T
	kernel *grant.Table
	now    time.Duration
	told   []packet.Packet // what the engine has not taken note of yet
	d      Decision

	asked int // packets that the engine has judged
}

func newGranting(t *testing.T, list ...rules.Rule) *granting {
	g := &granting{t: t, kernel: grant.New(grant.Memory(), 42), now: time.Second}
	g.Engine = New(grantingConfig(list...), scenarioSeeds)
	g.SetGrants(g.kernel)
	return g
}

func grantingConfig(list ...rules.Rule) Config {
	c := Config{States: 10_000, SrcNodes: 100, Start: 0.25, End: 0.12}
	for i := range list {
		list[i].Number, list[i].SourcePrefixV4, list[i].SourcePrefixV6 = i+1, 32, 64
		if list[i].Name == "" {
			list[i].Name = fmt.Sprint("rule", i)
		}
		c.Timeouts = append(c.Timeouts, conntrack.Lifetimes{Timeouts: conntrack.DefaultTimeouts()})
	}
	c.Ruleset = rules.New(list, nil)
	return c
}

// takeNote has the engine take note of all that has passed.
func (g *granting) takeNote() {
	list := g.told
	g.told = nil
	for i := range list {
		g.Handle(g.now, &list[i], &g.d)
	}
}

// send has a packet come, and says whether it passes.
func (g *granting) send(p packet.Packet, conn packet.Conn) bool {
	p.InDev, p.Window = 1, 1000
	if p.SrcPort == scenarioServer.Port() {
		p.InDev = 2
	}
	if p.Flags.Has(packet.SYN) {
		if g.kernel.Passes(&p) {
			p.Copied = true
			g.told = append(g.told, p)
			return true
		}
	} else if conn == packet.ConnOpening {
		if by, ok := g.kernel.Admits(&p); ok {
			p.Copied, p.Conn, p.Admitted, p.Grant = true, packet.ConnEstablished, true, by
			g.told = append(g.told, p)
			return true
		}
	}
	g.takeNote()
	g.asked++
	p.Conn = conn
	g.Handle(g.now, &p, &g.d)
	if g.d.Again {
		g.takeNote()
		p.Noted = true
		g.Handle(g.now, &p, &g.d)
	}
	return g.d.Verdict == packet.Pass
}

func clientTuple(client string, port uint16) packet.Tuple {
	return packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr(client), port), scenarioServer)
}

// open says whether a client's handshake comes through.
func (g *granting) open(client string, port uint16) bool {
	return g.begin(client, port) && g.finish(client, port)
}

func (g *granting) begin(client string, port uint16) bool {
	t := clientTuple(client, port)
	return g.send(packet.Packet{Tuple: t, Seq: 100, Flags: packet.SYN}, packet.ConnNone) &&
		g.send(packet.Packet{Tuple: t.Reverse(), Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK}, packet.ConnNone)
}

func (g *granting) finish(client string, port uint16) bool {
	return g.send(packet.Packet{Tuple: clientTuple(client, port), Seq: 101, Ack: 501, Flags: packet.ACK}, packet.ConnOpening)
}

func (g *granting) recount() {
	g.t.Helper()
	g.takeNote()
	if err := g.Recount(); err != nil {
		g.t.Fatal(err)
	}
}

const someClient = "198.51.100.7"

// Far below the limits a client's connections open without being asked about, and all are
// known when somebody looks.
func TestGranted(t *testing.T) {
	g := newGranting(t, rules.Rule{Name: "web", State: rules.Keep, MaxSrcConn: 1000})
	for port := range uint16(200) {
		if !g.open(someClient, 1000+port) {
			t.Fatalf("connection %d does not come through: %+v", port, g.d.Refusal)
		}
		if port%10 == 0 {
			g.takeNote()
		}
	}
	g.recount()
	if g.Len() != 200 || g.asked > 3 {
		t.Errorf("%d states, %d packets were judged; want 200 and those of one handshake", g.Len(), g.asked)
	}
	_ = g.States(g.now, func(l *Listed) error {
		if !l.Counting || l.Opening() {
			t.Errorf("%v: counts %v, opening %v", l.Tuple, l.Counting, l.Opening())
		}
		return nil
	})
}

// However the kernel's admissions and those that are asked about mix, and however late the
// engine hears of the former, no more are open than may be; and as many as may be are.
func TestGrantedWithinLimits(t *testing.T) {
	limits := map[string]rules.Rule{
		"max_src_conn":          {MaxSrcConn: 10},
		"max_src_states":        {MaxSrcStates: 10},
		"max_src_conn_rate":     {MaxSrcConnRate: rules.Rate{Count: 10, Window: time.Hour}},
		"max":                   {Max: 10},
		"max, and max_src_conn": {Max: 12, MaxSrcConn: 10},
	}
	for name, r := range limits {
		t.Run(name, func(t *testing.T) {
			r.State = rules.Keep
			random := seedtest.Rand(t)
			for range 200 {
				testGrantedWithin(t, random, r)
			}
		})
	}
}

func testGrantedWithin(t *testing.T, random *rand.Rand, r rules.Rule) {
	g := newGranting(t, r)
	opened, tries := 0, 0
	var begun []uint16
	for port := uint16(1000); port < 1040; port++ {
		switch random.IntN(8) {
		case 0:
			g.takeNote()
		case 1:
			g.now += 10 * time.Millisecond
			g.Tick(g.now, func(*Decision) {})
		case 2:
			g.Withdraw(g.now)
		}
		if g.begin(someClient, port) {
			begun = append(begun, port)
		}
		for len(begun) > 0 && random.IntN(3) > 0 {
			tries++
			if g.finish(someClient, begun[0]) {
				opened++
			}
			begun = begun[1:]
		}
		if opened > 10 {
			t.Fatalf("%d connections are open", opened)
		}
	}
	g.recount()
	if opened != min(tries, 10) {
		t.Fatalf("%d connections of %d tries are open", opened, tries)
	}
}

// Places that are reserved for one server are given to another before anybody is refused.
func TestGrantsAreRecalled(t *testing.T) {
	g := newGranting(t, rules.Rule{State: rules.Keep, MaxSrcConn: 20})
	g.open(someClient, 1000)
	other := func(port uint16) bool {
		t := packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr(someClient), port), netip.AddrPortFrom(scenarioServer.Addr(), 8080))
		p := packet.Packet{Tuple: t, Seq: 100, Flags: packet.SYN}
		return g.send(p, packet.ConnNone) &&
			g.send(packet.Packet{Tuple: t.Reverse(), Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK}, packet.ConnNone) &&
			g.send(packet.Packet{Tuple: t, Seq: 101, Ack: 501, Flags: packet.ACK}, packet.ConnOpening)
	}
	n := 1
	for port := uint16(2000); other(port); port++ {
		n++
	}
	g.recount()
	if n != 20 || g.d.Refusal.Count != 20 {
		t.Errorf("%d connections are open, the next is refused for %d of 20", n, g.d.Refusal.Count)
	}
}

// Who is not far below a limit is asked about, and so is everybody while the engine may not
// grant.
func TestNotGranted(t *testing.T) {
	cases := map[string]struct {
		rule   rules.Rule
		before func(*granting)
	}{
		"one connection is all":       {rules.Rule{State: rules.Keep, MaxSrcConn: 1}, nil},
		"the SYN proxy's":             {rules.Rule{State: rules.Synproxy}, nil},
		"adaptive, and half are open": {rules.Rule{State: rules.Adaptive, Backlog: 4}, func(g *granting) { g.begin("198.51.100.8", 1) }},
		"no kernel asks":              {rules.Rule{State: rules.Keep}, func(g *granting) { g.Granting(0, false) }},
		"everything was withdrawn":    {rules.Rule{State: rules.Keep}, func(g *granting) { g.Withdraw(g.now) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			g := newGranting(t, c.rule)
			g.begin(someClient, 1000)
			if c.before != nil {
				c.before(g)
			}
			g.finish(someClient, 1000)
			if g.Grants() {
				t.Error("something is granted")
			}
			g.recount()
		})
	}
}

// What nobody uses is taken back, and the source is forgotten with its last connection.
func TestGrantsRunOut(t *testing.T) {
	g := newGranting(t, rules.Rule{State: rules.Keep, MaxSrcConn: 100})
	g.open(someClient, 1000)
	g.open(someClient, 1001)
	g.takeNote()
	for range 3 * sweepParts {
		g.now += 100 * time.Millisecond
		g.Tick(g.now, func(*Decision) {})
	}
	if g.Grants() {
		t.Error("what nobody has used for 3 s is granted yet")
	}
	g.recount()
	g.Kill(g.now, func(*conntrack.State, string) bool { return true }, true, func(*Decision) {})
	for range 100 {
		g.now += 100 * time.Millisecond
		g.Tick(g.now, func(*Decision) {})
	}
	if n := g.SourceLen(); n != 0 {
		t.Errorf("%d sources are left", n)
	}
}

// A reload takes back what was granted. What was used before counts, under whatever rule is
// there now.
func TestGrantsOverReload(t *testing.T) {
	for name, next := range map[string]rules.Rule{
		"the same": {Name: "web", State: rules.Keep, MaxSrcConn: 100},
		"lower":    {Name: "web", State: rules.Keep, MaxSrcConn: 3},
		"another":  {Name: "other", State: rules.Keep, MaxSrcConn: 100},
		"none":     {Name: "web", Action: rules.Block},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGranting(t, rules.Rule{Name: "web", State: rules.Keep, MaxSrcConn: 100})
			for port := range uint16(5) {
				g.open(someClient, 1000+port)
			}
			g.Reload(g.now, grantingConfig(next))
			g.Withdraw(g.now)
			g.now += time.Millisecond
			g.recount()
			if passes := g.begin(someClient, 2000); next.Action == rules.Block && passes {
				t.Error("a SYN passes that a rule blocks")
			}
			g.recount()
		})
	}
}

// A SYN that the SYN proxy answers for what it asks is sent again without: its client is
// granted nothing meanwhile.
func TestFastOpenIsNotGranted(t *testing.T) {
	g := newGranting(t, rules.Rule{State: rules.Keep})
	g.open(someClient, 1000)
	if !g.Grants() {
		t.Fatal("nothing is granted")
	}
	fast := packet.Packet{Tuple: clientTuple(someClient, 1001), Seq: 100, Flags: packet.SYN}
	fast.Options.FastOpen = true
	if g.send(fast, packet.ConnNone) || g.d.Reason != packet.ReasonSynproxy {
		t.Errorf("asks for Fast Open: %v", g.d.Reason)
	}
	g.open(someClient, 1002)
	if g.Grants() {
		t.Error("its client is granted SYNs")
	}
	g.recount()
}
