package engine

import (
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// twoRules are the rules "web" of port 80 and "alt" of port 81, which track globally.
func twoRules(web, alt rules.Rule) Config {
	c := Config{States: 100, SrcNodes: 100, Start: 0.25, End: 0.12}
	list := []rules.Rule{web, alt}
	for i, name := range []string{"web", "alt"} {
		r, port := &list[i], uint16(80+i)
		r.Number, r.Name, r.SourceTrack = i+1, name, rules.TrackGlobal
		r.SourcePrefixV4, r.SourcePrefixV6 = 32, 64
		r.Ports = []rules.PortRange{{First: port, Last: port}}
		c.Timeouts = append(c.Timeouts, conntrack.Lifetimes{Timeouts: conntrack.DefaultTimeouts()})
	}
	c.Ruleset = rules.New(list, nil)
	return c
}

// connect takes a kept connection through its handshake, and returns why it did not
// come to its server, or ReasonMatch.
func connect(e *Engine, now time.Duration, t packet.Tuple) packet.Reason {
	var d Decision
	for _, p := range []packet.Packet{
		{Tuple: t, Seq: 100, Flags: packet.SYN, Conn: packet.ConnNone, InName: "eth0", InDev: 2},
		{Tuple: t.Reverse(), Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK, Conn: packet.ConnNone, InName: "eth1", InDev: 3},
		{Tuple: t, Seq: 101, Ack: 501, Flags: packet.ACK, Conn: packet.ConnOpening, InName: "eth0", InDev: 2},
	} {
		if e.Handle(now, &p, &d); d.Verdict != packet.Pass {
			return d.Reason
		}
	}
	return packet.ReasonMatch
}

// What one rule admits counts for the limits of all that track globally, whether it has
// such a limit itself or none, and a higher or a lower one.
func TestGlobalLimitsCountEachOthersConnections(t *testing.T) {
	rate := func(n uint32, window time.Duration) rules.Rule {
		return rules.Rule{MaxSrcConnRate: rules.Rate{Count: n, Window: window}}
	}
	const s = time.Second
	for name, c := range map[string]struct {
		web, alt rules.Rule
		altAt    []time.Duration // connections of alt's, one after the other
		webAt    time.Duration   // and the first of web's that is refused
		want     packet.Reason
	}{
		"no limit of its own": {rules.Rule{MaxSrcConn: 2}, rules.Rule{}, []time.Duration{0, 0}, 0, packet.ReasonMaxSrcConn},
		"another limit":       {rate(2, 10*s), rules.Rule{MaxSrcConn: 9}, []time.Duration{0, 9 * s}, 9 * s, packet.ReasonMaxSrcConnRate},
		"a lower rate":        {rate(6, 60*s), rate(1, s), []time.Duration{0, 2 * s, 4 * s, 6 * s, 8 * s, 10 * s}, 12 * s, packet.ReasonMaxSrcConnRate},
		"window is over":      {rate(2, 10*s), rules.Rule{}, []time.Duration{0, 9 * s}, 10 * s, packet.ReasonMatch},
	} {
		e := New(twoRules(c.web, c.alt), scenarioSeeds)
		for i, at := range c.altAt {
			tuple := tupleOf(0, 81)
			tuple.SrcPort += uint16(i)
			if got := connect(e, at, tuple); got != packet.ReasonMatch {
				t.Errorf("%s: alt's connection %d: %v", name, i, got)
			}
		}
		if got := connect(e, c.webAt, tupleOf(0, 80)); got != c.want {
			t.Errorf("%s: web's connection: %v, want %v", name, got, c.want)
		}
	}
}

// A source whose connections were all killed is none of the rule's any more, though
// their states stay until both ends know.
func TestKilledHoldNoSource(t *testing.T) {
	e := New(twoRules(rules.Rule{MaxSrcNodes: 1}, rules.Rule{}), scenarioSeeds)
	first, second := tupleOf(0, 80), tupleOf(2, 80)
	if got := connect(e, 0, first); got != packet.ReasonMatch {
		t.Fatal(got)
	}
	if got := connect(e, 0, second); got != packet.ReasonMaxSrcNodes {
		t.Fatalf("the second source: %v", got)
	}
	all := func(*conntrack.State, string) bool { return true }
	if n := e.Kill(0, all, false, func(*Decision) {}); n != 1 || e.table.Len() != 1 {
		t.Fatalf("%d killed, %d states stay", n, e.table.Len())
	}
	if got := connect(e, 0, second); got != packet.ReasonMatch {
		t.Errorf("the second source, after the first was killed: %v", got)
	}
	if err := e.Recount(); err != nil {
		t.Error(err)
	}
}
