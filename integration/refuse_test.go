package integration

import (
	"strings"
	"testing"
	"time"
)

// silence is how long nothing may be heard of a connection that is dropped.
const silence = 250 * time.Millisecond

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
	if !keeps {
		return
	}
	g.closes(open[0], c.first)
	g.gets(c.first, 1)
	c.holds(g, 5)
	g.waitSummary(g.source(c.first), "1 FIN_WAIT_2:FIN_WAIT_2, 3 ESTABLISHED:ESTABLISHED")
}
