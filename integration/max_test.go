package integration

import "testing"

// What each limit counts, and what frees it, as the server's sockets show.
func TestLimitsOfARule(t *testing.T) {
	runRuleCases(t, []ruleCase{
		{"max", []string{"max = 3"}, testMax},
		{"max at once", []string{"max = 10"}, testMaxAtOnce},
		{"dying connections", []string{
			"max_src_conn = 3", "max_src_states = 3", "max_src_conn = 3\ncount = \"states\"",
		}, testDying},
		{"max_src_nodes", []string{"max_src_nodes = 2"}, testNodes},
		{"source_track", []string{
			"max_src_conn = 3\nsource_track = \"global\"", "max_src_conn = 3\nsource_track = \"global\"",
			"max_src_conn = 3", "max_src_conn = 3",
		}, testSourceTrack},
		{"source_prefix", []string{
			"max_src_conn = 2\nsource_prefix_v4 = 24\nsource_prefix_v6 = 64",
			"max_src_conn = 2\nsource_prefix_v4 = 32\nsource_prefix_v6 = 128",
		}, testSourcePrefix},
	})
}

// max is over all sources, and counts a connection until its state is removed.
func testMax(c *ruleTest) {
	g := c.on[0]
	var all []pair
	for i := range 3 {
		all = append(all, g.gets(c.first+i, 1)...)
	}
	g.isRefused(c.first+3, "a source more")
	g.isRefused(c.first, "a source that has one")
	g.closes(all[0], c.first)
	g.isRefused(c.first+3, "after one is closed")
	g.forgets(c.first)
	g.gets(c.first+3, 1)
	g.isRefused(c.first, "after another took its place")
	c.holds(g, 3)
}

func testMaxAtOnce(c *ruleTest) {
	g := c.on[0]
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(c.first), To: g.srv.Addr(), N: 50, Concurrency: 50})
	expectRefusals(c.T, h, g.srv, 10)
	c.holds(g, 10)
}

// A connection that the server has closed counts for max_src_states and, as in pf,
// where count says "states"; for max_src_conn it does not. One that only the client
// has closed counts for all.
func testDying(c *ruleTest) {
	for i, g := range c.on {
		source, serverOnly := c.first+i, i == 0
		open := g.gets(source, 3)
		g.isRefused(source, "one more than three")
		if err := open[0].client.CloseWrite(); err != nil {
			c.Fatal(err)
		}
		g.waitSummary(g.source(source), "1 ESTABLISHED:FIN_WAIT_2, 2 ESTABLISHED:ESTABLISHED")
		g.isRefused(source, "the client has closed one")
		_ = open[0].server.Close()
		g.waitSummary(g.source(source), "1 FIN_WAIT_2:FIN_WAIT_2, 2 ESTABLISHED:ESTABLISHED")
		if !serverOnly {
			g.isRefused(source, "the server has closed one, whose state is there")
			c.holds(g, 2)
			g.forgets(source)
		}
		g.gets(source, 1)
		g.isRefused(source, "another took its place")
		c.holds(g, 3)
	}
}

func testNodes(c *ruleTest) {
	g := c.on[0]
	first := g.gets(c.first, 2)
	g.gets(c.first+1, 1)
	g.isRefused(c.first+2, "a third source")
	g.gets(c.first+1, 1)
	for _, p := range first {
		g.closes(p, c.first)
	}
	g.isRefused(c.first+2, "a third source, while states of the first are left")
	g.forgets(c.first)
	g.gets(c.first+2, 1)
	g.isRefused(c.first, "the first source, which is the third now")
	c.holds(g, 3)
}

func testSourceTrack(c *ruleTest) {
	one, other := c.on[0], c.on[1]
	one.gets(c.first, 2)
	other.gets(c.first, 1)
	one.isRefused(c.first, "three by two rules")
	other.isRefused(c.first, "three by two rules")
	other.gets(c.first+1, 3)
	for _, g := range c.on[2:] {
		g.gets(c.first, 3)
		g.isRefused(c.first, "three by one rule")
	}
}

// The client's addresses on its network are of one /24, and of one /64.
func testSourcePrefix(c *ruleTest) {
	grouped, alone := c.on[0], c.on[1]
	open := func(g *guarded, i int) Outcome {
		return g.lab.Client.Hold(g.ctx, HoldOptions{From: ClientAddr(g.family, i), To: g.srv.Addr(), N: 1}).Attempts[0].Outcome
	}
	for i := range 4 {
		if got := open(grouped, i); (got == Held) != (i < 2) {
			c.Errorf("address %d of one group: %v", i, got)
		}
		if got := open(alone, i); got != Held {
			c.Errorf("address %d on its own: %v", i, got)
		}
	}
	grouped.gets(c.first, 2)
	c.holds(grouped, 4)
	c.holds(alone, 4)
}

// closes closes both sides of a connection, and waits until that is seen.
func (g *guarded) closes(p pair, from int) {
	g.t.Helper()
	want := g.over(from) + 1
	_ = p.client.CloseWrite()
	_ = p.server.CloseWrite()
	if Poll(g.ctx, func() bool { return g.over(from) == want }) != nil {
		g.t.Fatalf("%d states of %v are over, want %d", g.over(from), g.source(from), want)
	}
}

// over is how many states of a source are over.
func (g *guarded) over(from int) (n int) {
	g.t.Helper()
	for _, s := range g.statesOf(g.source(from)) {
		if s.State == "FIN_WAIT_2:FIN_WAIT_2" {
			n++
		}
	}
	return n
}

// forgets has the states of a source go that are over.
func (g *guarded) forgets(from int) {
	g.t.Helper()
	out, err := g.fw.Command(g.ctx, "kill", "--state", "FIN_WAIT_2:FIN_WAIT_2", g.source(from).String(), g.srv.Addr().String())
	if err != nil {
		g.t.Fatalf("kill: %v %s", err, out)
	}
}
