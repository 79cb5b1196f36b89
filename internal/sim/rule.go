package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"nfqfw/internal/engine"
	"nfqfw/rules"
)

// tableName is the table that overload fills, and that a rule blocks.
const tableName = "abusers"

// newRules are one rule or two, each of one of the server's ports.
func (s *story) newRules(r *rand.Rand) []rules.Rule {
	list := make([]rules.Rule, 1+r.IntN(serverPorts))
	prefix := uint8(32)
	if oneIn(r, 8) {
		prefix = 24 // all clients are one source
	}
	for i := range list {
		port := uint16(serverPort + i)
		list[i] = rules.Rule{
			Name: fmt.Sprint("port ", port), State: one(r, states), Refuse: s.gateway.refuse, Count: s.gateway.count,
			SourcePrefixV4: prefix, SourcePrefixV6: 64, Ports: []rules.PortRange{{First: port, Last: port}},
			CountOnly: oneIn(r, 12),
		}
		if oneIn(r, 3) {
			list[i].SourceTrack = rules.TrackGlobal
		}
		if s.kind == foul && oneIn(r, 6) {
			list[i].Overload, list[i].Flush = tableName, one(r, []rules.Flush{rules.FlushNone, rules.FlushRule, rules.FlushGlobal})
		}
		s.limit(r, &list[i])
	}
	return list
}

// limit gives a rule other limits. In a story that is not foul they are not reached,
// but by a rule that only counts.
func (s *story) limit(r *rand.Rand, x *rules.Rule) {
	least := uint32(0)
	if s.kind != foul && !x.CountOnly {
		least = uint32(s.connections)
	}
	some := func(n int) uint32 { return least + 1 + uint32(r.IntN(n)) }
	x.MaxSrcConn, x.Max, x.MaxSrcStates, x.MaxSrcNodes, x.MaxSrcConnRate = 0, 0, 0, 0, rules.Rate{}
	if r.IntN(4) > 0 {
		x.MaxSrcConn = some(6)
	}
	if oneIn(r, 6) {
		x.Max = some(8)
	}
	if oneIn(r, 6) {
		x.MaxSrcStates = some(8)
	}
	if oneIn(r, 6) {
		x.MaxSrcNodes = some(3)
	}
	if oneIn(r, 4) {
		// Who was killed in silence is taken up again from its cookie, and admitted twice.
		x.MaxSrcConnRate = rules.Rate{Count: least + some(6), Window: time.Duration(1+r.IntN(8)) * time.Second / 2}
	}
}

func describe(x *rules.Rule) string {
	return fmt.Sprintf("%s: %v, max %d, conns %d, states %d, nodes %d, rate %v, tracks /%d %v, overload %q %v, counts only %v",
		x.Name, x.State, x.Max, x.MaxSrcConn, x.MaxSrcStates, x.MaxSrcNodes, x.MaxSrcConnRate, x.SourcePrefixV4, x.SourceTrack,
		x.Overload, x.Flush, x.CountOnly)
}

// service is one of the server's ports.
type service struct {
	rule  rules.Rule
	there bool // the rule is in the file
}

// said is what a rule says, or said last before it vanished.
type said struct {
	rules.Rule
	rated time.Duration // since when the rate is as it is
}

// serve begins with the story's rules.
func (w *world) serve() {
	w.services = w.services[:0]
	for _, x := range w.story.gateway.rules {
		w.services = append(w.services, service{rule: x, there: true})
		w.said[x.Name] = said{Rule: x}
	}
}

// config is what the file says now.
func (w *world) config() engine.Config {
	p := &w.story.gateway
	c := engine.Config{States: p.states, SrcNodes: p.sources, Cookies: p.cookies, Start: p.start, End: p.end}
	list := make([]rules.Rule, 0, 1+serverPorts)
	add := func(x rules.Rule) {
		x.Number = len(list) + 1
		list, c.Timeouts = append(list, x), append(c.Timeouts, p.lifetimes)
	}
	for i := range w.services {
		if s := &w.services[i]; s.there {
			add(s.rule)
		}
	}
	if w.overloads() {
		from := rules.Addresses{Tables: []rules.TableRef{{Name: tableName}}}
		add(rules.Rule{Name: tableName, Action: rules.Block, From: from, Refuse: p.refuse})
	}
	c.Ruleset = rules.New(list, func(string) rules.Table { return &w.abusers })
	return c
}

// overloads says whether a rule fills the table.
func (w *world) overloads() bool {
	for i := range w.story.gateway.rules {
		if w.story.gateway.rules[i].Overload != "" {
			return true
		}
	}
	return false
}

// abusers are the sources in the table.
type abusers struct{ overloads []engine.Overload }

// Contains is the table's as rules ask it.
func (a *abusers) Contains(client netip.Addr) bool { return a.find(client) != nil }

// find is the overload that has put a client into the table, or nil.
func (a *abusers) find(client netip.Addr) *engine.Overload {
	for i := range a.overloads {
		if a.overloads[i].Prefix.Contains(client) {
			return &a.overloads[i]
		}
	}
	return nil
}
