package engine

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// adoption is an established connection from a port of the scenarios' client.
func adoption(port uint16, age time.Duration) *Adoption {
	return &Adoption{
		Tuple: packet.TupleFrom(netip.AddrPortFrom(scenarioClient, port), scenarioServer),
		Src:   conntrack.Established, Dst: conntrack.Established, Age: age,
	}
}

func adopting(r rules.Rule) *Engine {
	r.Number, r.Name, r.SourcePrefixV4, r.SourcePrefixV6 = 1, "web", 32, 64
	return New(Config{
		Ruleset: rules.New([]rules.Rule{r}, nil), Timeouts: []conntrack.Lifetimes{{Timeouts: conntrack.DefaultTimeouts()}},
		States: 10, SrcNodes: 10,
	}, scenarioSeeds)
}

// What is adopted counts, over the limit too, and as often as it is told of, once.
func TestAdoptCounts(t *testing.T) {
	e := adopting(rules.Rule{MaxSrcConn: 2})
	closed := adoption(40000, time.Hour)
	closed.Dst = conntrack.FinWait2
	for _, a := range []*Adoption{closed, adoption(40001, 0), adoption(40002, 0), adoption(40003, time.Minute)} {
		if !e.Adopt(time.Second, a) {
			t.Errorf("%v is not adopted", a.Tuple)
		}
		if e.Adopt(time.Second, a) {
			t.Errorf("%v is adopted twice", a.Tuple)
		}
	}
	_ = e.Sources(time.Second, func(l *ListedSource) error {
		if l.Conns != 3 || l.States != 4 {
			t.Errorf("%d connections count, of %d states", l.Conns, l.States)
		}
		return nil
	})
	var d Decision
	e.Handle(time.Second, &packet.Packet{Tuple: adoption(40009, 0).Tuple, Flags: packet.SYN}, &d)
	if d.Reason != packet.ReasonMaxSrcConn || d.Refusal.Count != 3 {
		t.Errorf("the next one: %v, %+v", d.Reason, d.Refusal)
	}
	_ = e.States(time.Second, func(l *Listed) error {
		if l.Tuple.SrcPort == 40000 && (l.Age != time.Hour || l.Counting) {
			t.Errorf("age %v, counts %v", l.Age, l.Counting)
		}
		return nil
	})
}

// A rate takes in what began in its window.
func TestAdoptRate(t *testing.T) {
	e := adopting(rules.Rule{MaxSrcConnRate: rules.Rate{Count: 2, Window: 10 * time.Second}})
	for port, age := range map[uint16]time.Duration{40000: time.Hour, 40001: 9 * time.Second} {
		e.Adopt(0, adoption(port, age))
	}
	_ = e.Sources(0, func(l *ListedSource) error {
		if l.Recent != 1 {
			t.Errorf("%d began in the window, want 1", l.Recent)
		}
		return nil
	})
}

// What no rule lets pass is nobody's.
func TestAdoptNot(t *testing.T) {
	for _, r := range []rules.Rule{{Action: rules.Block}, {Ports: []rules.PortRange{{First: 81, Last: 81}}}} {
		if e := adopting(r); e.Adopt(0, adoption(40000, 0)) || e.Len() != 0 {
			t.Errorf("%+v: adopted", r)
		}
	}
}

// A new connection finds room wherever a half-open one is, and no established one goes.
func TestRoomIsMadeAnywhere(t *testing.T) {
	e := adopting(rules.Rule{State: rules.Keep})
	for port := range uint16(9) {
		e.Adopt(0, adoption(port, 0))
	}
	var d Decision
	for port := uint16(1000); port < 1100; port++ {
		e.Handle(0, &packet.Packet{Tuple: adoption(port, 0).Tuple, Flags: packet.SYN}, &d)
		if d.Verdict != packet.Pass {
			t.Fatalf("SYN %d: %v", port, d.Reason)
		}
	}
	established := 0
	_ = e.States(0, func(l *Listed) error {
		if l.Dst.State == conntrack.Established {
			established++
		}
		return nil
	})
	if established != 9 || e.Len() != 10 || e.Counters().Evicted.Load() != 99 {
		t.Errorf("%d established of %d, %d evicted", established, e.Len(), e.Counters().Evicted.Load())
	}
}
