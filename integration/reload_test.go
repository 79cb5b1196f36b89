package integration

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A reloaded is what a rule says that a reload changes.
type reloaded struct {
	name, on string
	port     uint16
	policy   string
	limit    int
}

func (r reloaded) config() string {
	cookies, state := underPolicy(r.policy)
	return cookies + fmt.Sprintf(`
[[rule]]
name = %q
on = [%q]
port = [%d]
state = %q
max_src_conn = %d
source_prefix_v6 = 128
`, r.name, r.on, r.port, state, r.limit)
}

// eachReload runs a test under each policy, with connections that open and close all
// the time, of which none may fail. The rule of port 80 has a limit of 5.
func eachReload(t *testing.T, run func(g *guarded, r reloaded)) {
	for i, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			t.Parallel() // one waits until hooks are taken out
			at, f := places[i%2], Families[i/2%2]
			r := reloaded{"web", "eth0", 80, policy, 5}
			g := guardWith(t, r.config(), at, f, AcceptOptions{Echo: true, CloseOnEOF: true})
			end := traffic(g.ctx, t, g.lab, f, g.srv.Addr())
			defer end()
			run(g, r)
		})
	}
}

// hangup has the daemon take another configuration by SIGHUP, and waits for what it
// logs of that.
func (g *guarded) hangup(config, message string) {
	g.t.Helper()
	words := fmt.Sprintf("msg=%q", message)
	if !strings.Contains(message, " ") {
		words = "msg=" + message + " "
	}
	before := strings.Count(g.fw.Log(), words)
	if err := g.fw.Configure(config); err != nil {
		g.t.Fatal(err)
	}
	if err := g.fw.Signal(syscall.SIGHUP); err != nil {
		g.t.Fatal(err)
	}
	if Poll(g.ctx, func() bool { return strings.Count(g.fw.Log(), words) > before }) != nil {
		g.t.Fatalf("the log does not say %s after SIGHUP", words)
	}
}

// A lower limit ends no connection and refuses new ones, until there are fewer; a
// higher one lets more in. What a rule of another name counts begins anew, and states
// of the one that has vanished are seen to until their end.
func TestReloadLimits(t *testing.T) {
	eachReload(t, func(g *guarded, r reloaded) {
		open := g.gets(0, 5)
		g.isRefused(0, "one more than 5")

		r.limit = 3
		g.hangup(r.config(), "reloaded")
		g.allEcho(open)
		g.isRefused(0, "5 of 3")
		g.ends(open[:2], 0)
		g.isRefused(0, "3 of 3")
		g.ends(open[2:3], 0)
		open = append(open[3:], g.gets(0, 1)...)
		g.isRefused(0, "again 3 of 3")

		r.limit = 5
		g.reloads(r.config())
		open = append(open, g.gets(0, 2)...)
		g.isRefused(0, "one more than 5 again")

		r.name = "shop"
		g.reloads(r.config())
		g.allEcho(open)
		g.gets(0, 5)
		g.isRefused(0, "one more than 5 of the new rule")
		g.ends(open, 0)
		g.isRefused(0, "what the old rule has let in was not the new one's")
		if rules := g.rulesOf(0); rules["shop"] != 5 || rules["web"] < 5 {
			g.t.Errorf("states by rule: %v, want 5 of shop, and those that are over of web", rules)
		}
	})
}

// A rule can change how it keeps state, in both directions, whatever is under way.
func TestReloadPolicy(t *testing.T) {
	eachReload(t, func(g *guarded, r reloaded) {
		for i, policy := range append(slices.Repeat(policies, 3), r.policy) {
			r.policy, r.name = policy, []string{"web", "shop"}[i/len(policies)%2]
			g.reloads(r.config())
		}
		g.gets(0, 5)
		g.isRefused(0, "one more than 5")
	})
}

// ends closes connections by the client's FIN, and waits until they are over.
func (g *guarded) ends(list []pair, from int) {
	g.t.Helper()
	want := g.over(from) + len(list)
	for _, p := range list {
		closeSession(g.t, p.client)
	}
	if Poll(g.ctx, func() bool { return g.over(from) == want }) != nil {
		g.t.Fatalf("%d states of %v are over, want %d", g.over(from), g.source(from), want)
	}
}

func (g *guarded) allEcho(list []pair) {
	g.t.Helper()
	for _, p := range list {
		echo(g.t, p.client)
	}
}

// rulesOf counts the states of a source by rule.
func (g *guarded) rulesOf(from int) map[string]int {
	g.t.Helper()
	count := make(map[string]int)
	for _, s := range g.statesOf(g.source(from)) {
		count[s.Rule]++
	}
	return count
}

// Another port, and then another interface: the hooks move, and what was open closes
// as it would have.
func TestReloadScope(t *testing.T) {
	eachReload(t, func(g *guarded, r reloaded) {
		open := g.gets(0, 5)
		g.expectHooks("--dport 80", "")

		r.port = 81
		g.reloads(r.config())
		g.expectHooks("--dport 81", "")
		more := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(0), To: g.srv.Addr(), N: 8})
		if more.Count(Held) != 8 {
			g.t.Errorf("on the port that is free: %v, want 8 held", more)
		}
		behind := *g
		behind.srv = must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(81), AcceptOptions{Echo: true}))
		behind.gets(1, 5)
		behind.isRefused(1, "one more than 5 on the new port")
		g.allEcho(open)
		g.ends(open, 0)

		r.on = "eth2"
		g.hangup(r.config(), "reloaded")
		g.expectHooks("-i eth2", "")
		free := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: behind.srv.Addr(), N: 8})
		if free.Count(Held) != 8 {
			g.t.Errorf("by the interface that is free: %v, want 8 held", free)
		}
		h := g.lab.Client.Hold(g.ctx, HoldOptions{From: SecondClientAddr(g.family, 0), To: behind.srv.Addr(), N: 8})
		if h.Count(Held) != 5 {
			g.t.Errorf("by the new interface: %v, want 5 held", h)
		}
		if _, err := g.fw.Command(g.ctx, "kill", "--all"); err != nil {
			g.t.Errorf("kill --all: %v", err)
		}
		g.expectHooks("-i eth2", "-i eth0")
	})
}

// expectHooks waits until the tables have one thing, and not another.
func (g *guarded) expectHooks(has, hasNot string) {
	g.t.Helper()
	var text string
	err := Poll(g.ctx, func() bool {
		text = tables(g.t, g.lab)
		return strings.Contains(text, has) && (hasNot == "" || !strings.Contains(text, hasNot))
	})
	if err != nil {
		g.t.Errorf("hooks with %q and without %q are missing:\n%s", has, hasNot, text)
	}
}
