package integration

import (
	"fmt"
	"strings"
	"testing"

	"nfqfw/internal/control"
)

// silence is how long nothing may be heard of a connection that is dropped.
const silence = 2 * pause

// blocks is what a block rule says.
const blocks = `action = "block"`

// limitsOfOne are rules that refuse the second connection, or source, or any.
var limitsOfOne = []string{
	"max = 1", "max_src_conn = 1", "max_src_states = 1", "max_src_nodes = 1", `max_src_conn_rate = "1/1h"`, blocks,
}

// Whichever limit it is, refuse = "reset" tells the client at once, and "drop" never.
// A block rule does so without a limit.
func TestRefuse(t *testing.T) {
	var cases []ruleCase
	for _, refuse := range []string{"reset", "drop"} {
		for _, limit := range limitsOfOne {
			run := func(c *ruleTest) {
				c.refuses(refuse == "drop", limit != blocks, strings.Contains(limit, "nodes"))
			}
			cases = append(cases, ruleCase{refuse + " by " + limit, []string{limit + "\nrefuse = \"" + refuse + "\""}, run})
		}
	}
	runRuleCases(t, cases)
}

// refuses holds that after one connection, or none, the next is refused: that of
// another source, or of the same.
func (c *ruleTest) refuses(silently, afterOne, other bool) {
	g, from := c.on[0], c.first
	if afterOne {
		g.gets(from, 1)
	}
	if other {
		from++
	}
	if !silently {
		g.isRefused(from, "over the limit")
		c.logs(from, true)
		return
	}
	before := g.srv.Count()
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(from), To: g.srv.Addr(), N: 2, Concurrency: 2, Timeout: silence})
	if h.Count(TimedOut) != 2 {
		c.Errorf("over the limit: %v, want silence", h)
	}
	if n := g.srv.Count(); n != before {
		c.Errorf("over the limit: the server accepted %d more", n-before)
	}
	c.logs(from, true)
}

// logs holds that refusals of a source's connections are listed, all of which were
// carried out or none.
func (c *ruleTest) logs(from int, enforced bool) {
	c.Helper()
	g := c.on[0]
	list := must[[]control.Refusal](c.T, "refusals")(g.fw.Refusals(g.ctx, g.source(from)))
	if len(list) == 0 {
		c.Errorf("no refusal of %v is listed", g.source(from))
	}
	for _, r := range list {
		if r.Enforced != enforced || r.Dest.Port != g.srv.Addr().Port() || r.Reason != c.reason() {
			c.Errorf("listed: %+v, want %s, enforced %v", r, c.reason(), enforced)
		}
	}
}

// reason is the name of the one reason that the test's limit gives.
func (c *ruleTest) reason() string {
	for _, name := range []string{"max-src-conn-rate", "max-src-conn", "max-src-states", "max-src-nodes", "max"} {
		if strings.Contains(strings.ReplaceAll(c.Name(), "_", "-"), name) {
			return name
		}
	}
	return "block"
}

// A rule that only counts refuses nothing, and keeps states as it would otherwise.
func TestEnforceFalse(t *testing.T) {
	var cases []ruleCase
	for _, limit := range limitsOfOne {
		keeps := limit != blocks
		run := func(c *ruleTest) { c.onlyCounts(keeps) }
		cases = append(cases, ruleCase{limit, []string{limit + "\nenforce = false"}, run})
	}
	runRuleCases(t, cases)
}

func (c *ruleTest) onlyCounts(keeps bool) {
	g := c.on[0]
	open := g.gets(c.first, 3)
	g.gets(c.first+1, 2)
	c.holds(g, 5)
	c.logs(c.first+1, false)
	if !keeps {
		return
	}
	g.closes(open[0], c.first)
	g.gets(c.first, 1)
	c.holds(g, 5)
	g.waitSummary(g.source(c.first), "1 FIN_WAIT_2:FIN_WAIT_2, 3 ESTABLISHED:ESTABLISHED")
}

const trialConfig = `
[[rule]]
name = "web"
port = [80]
state = %q
max_src_conn = 2
[[rule]]
name = "trial"
action = "block"
quick = true
enforce = false
`

// A block rule that only counts opens nothing: the rule that would have been without it
// decides, and its limit holds.
func TestBlockNotEnforced(t *testing.T) {
	for i, policy := range []string{"synproxy", "keep"} {
		g := guardWith(t, fmt.Sprintf(trialConfig, policy), places[i], Families[i], AcceptOptions{Echo: true})
		g.gets(0, 2)
		g.isRefused(0, "one more than 2")
		var got []string
		for _, r := range must[[]control.Refusal](t, "refusals")(g.fw.Refusals(g.ctx, g.source(0))) {
			got = append(got, fmt.Sprintf("%s %s %v", r.Rule, r.Reason, r.Enforced))
		}
		if want := "trial block false, trial block false, web max-src-conn true"; strings.Join(got, ", ") != want {
			t.Errorf("%s: listed: %s, want %s", policy, strings.Join(got, ", "), want)
		}
	}
}
