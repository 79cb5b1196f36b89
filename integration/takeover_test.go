package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	takeovers          = 10
	takeoverInterval   = 200 * time.Millisecond
	takeoverLoad       = 20_000 // connections
	takeoverTimeout    = 50 * time.Second
	takeoverFree       = 40_000 // ports of the client: each is used once
	takeoverConcurrent = 16
)

// While one daemon after another takes over, no connection fails, new or old, and the
// limit holds. A listing shows the same states before and after.
func TestTakeover(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			g := guardAll(t, webConfig(policy, takeoverConcurrent), AcceptOptions{})[0]
			l := g.lab
			load := newShortLoad(l, places[0], IPv4, takeoverLoad)
			load.To = netip.AddrPortFrom(load.To.Addr(), 80)
			load.Ports, load.Workers, load.Patience = takeoverFree, takeoverConcurrent, 1
			g.srv.Close()
			answerShort(t, places[0].ns(l), load.To)
			ctx, cancel := context.WithTimeout(t.Context(), takeoverTimeout)
			defer cancel()
			done := make(chan *ShortResult)
			go func() { done <- load.Run(ctx) }()
			for i := range takeovers {
				time.Sleep(takeoverInterval)
				if err := g.fw.Takeover(ctx); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			r := <-done
			t.Log(r)
			if len(r.Failures) > 0 || len(r.Took) != takeoverLoad {
				t.Errorf("%d of %d answered", len(r.Took), takeoverLoad)
				for _, err := range r.Failures[:min(len(r.Failures), 5)] {
					t.Log(err)
				}
			}
		})
	}
}

// What is open goes on, counts and can be killed; what was put into a table stays;
// counters go on.
func TestTakeoverKeeps(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			const table = "[table.bad]\nttl = \"1h\"\n[[rule]]\nname = \"bad\"\naction = \"block\"\nfrom = [\"<bad>\"]\nquick = true\n"
			for i, g := range guardAll(t, table+webConfig(policy, 3), AcceptOptions{}) {
				g.takenOver(g.source(i), fmt.Sprintf("%s/%v: ", g.at.name, g.family))
			}
		})
	}
}

func (g *guarded) takenOver(source netip.Addr, name string) {
	g.t.Helper()
	p := [3]pair{g.open(source), g.open(source), g.open(source)}
	for _, c := range p {
		defer c.client.Close()
		defer c.server.Close()
	}
	_ = p[0].client.CloseWrite()
	g.drained(p[0].server)
	g.waitSummary(source, "1 ESTABLISHED:FIN_WAIT_2, 2 ESTABLISHED:ESTABLISHED")
	must[string](g.t, "table add")(g.fw.Command(g.ctx, "table", "bad", "add", "203.0.113.9"))
	before := must[string](g.t, "states")(g.fw.Command(g.ctx, "states", "-vv", "--source", source.String()))
	if err := g.fw.Takeover(g.ctx); err != nil {
		g.t.Fatal(name, err)
	}
	after := must[string](g.t, "states")(g.fw.Command(g.ctx, "states", "-vv", "--source", source.String()))
	if a, b := withoutTimes(before), withoutTimes(after); a != b {
		g.t.Errorf("%sbefore:\n%s\nafter:\n%s", name, a, b)
	}
	if _, err := g.lab.Client.Dial(g.ctx, netip.AddrPortFrom(source, 0), g.srv.Addr()); err == nil {
		g.t.Errorf("%sone more than the limit came through", name)
	}
	if out := must[string](g.t, "table show")(g.fw.Command(g.ctx, "table", "bad", "show", "-v")); !strings.Contains(out, "203.0.113.9") || !strings.Contains(out, "Expires in:  00:59") {
		g.t.Errorf("%sthe table has\n%s", name, out)
	}
	g.carry(p[1], 100_000)
	p[1].server.Close()
	g.drained(p[1].client)
	g.waitSummary(source, "1 ESTABLISHED:ESTABLISHED, 1 ESTABLISHED:FIN_WAIT_2, 1 FIN_WAIT_2:ESTABLISHED")
	g.open(source).client.Close()
}

// withoutTimes leaves the lines of age and expiry out, and puts the states in order.
func withoutTimes(states string) string {
	var kept []string
	for line := range strings.Lines(states) {
		switch {
		case !strings.HasPrefix(line, " "):
			kept = append(kept, line)
		case !strings.HasPrefix(line, "   age "):
			kept[len(kept)-1] += line
		}
	}
	slices.Sort(kept)
	return strings.Join(kept, "")
}
