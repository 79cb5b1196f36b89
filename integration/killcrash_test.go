package integration

import "testing"

// A daemon that dies before the two sides of a killed connection have heard leaves it to
// the next one: it goes on, and counts, for its server still holds it.
func TestKillCutShort(t *testing.T) {
	for i, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			f := Families[i]
			g := guard(t, policy, places[0], f, 3, AcceptOptions{Echo: true})
			open := g.gets(0, 3)
			// Neither side hears a question or a RST.
			deaf := drop{f, "PREROUTING", "--tcp-flags FIN,RST,SYN FIN", true}
			mute := drop{f, "PREROUTING", "--tcp-flags RST RST", true}
			g.lab.Client.lose(t, deaf, mute)
			g.lab.Server.lose(t, deaf, mute)
			if n := g.kills(g.source(0).String()); n != 3 {
				t.Errorf("%d states killed, want 3", n)
			}
			g.must("kill", g.fw.Kill())
			g.lab.Client.lossless(t, f)
			g.lab.Server.lossless(t, f)
			g.must("start", g.fw.Start(g.ctx))
			g.waitSummary(g.source(0), "3 ESTABLISHED:ESTABLISHED")
			if n := g.counted(g.source(0)); n != 3 {
				t.Errorf("%d count, want 3", n)
			}
			for _, p := range open {
				echo(t, p.client)
			}
			g.isRefused(0, "one more than 3")
		})
	}
}

// One that dies when both sides have heard, and before it has asked the server again,
// leaves nothing that counts: the next daemon asks.
func TestKillNotSeenThrough(t *testing.T) {
	for i, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			g := guard(t, policy, places[0], Families[i], 3, AcceptOptions{Echo: true})
			g.gets(0, 3)
			if n := g.kills(g.source(0).String()); n != 3 {
				t.Errorf("%d states killed, want 3", n)
			}
			g.must("wait for the server", Poll(g.ctx, func() bool { return len(g.held(g.source(0))) == 0 }))
			g.must("kill", g.fw.Kill())
			g.must("start", g.fw.Start(g.ctx))
			g.waitSummary(g.source(0), "3 TIME_WAIT:TIME_WAIT")
			g.gets(0, 3)
		})
	}
}
