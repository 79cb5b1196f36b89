package engine

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// brokenTable panics when it is asked.
type brokenTable struct{ broken bool }

// Contains panics, or holds nothing.
func (b *brokenTable) Contains(netip.Addr) bool {
	if b.broken {
		panic("broken table")
	}
	return false
}

// A panic while a packet is decided about leaves no lock behind: the next one of the
// same connection, and a listing, get an answer.
func TestPanicLeavesNoLock(t *testing.T) {
	table := &brokenTable{broken: true}
	list := []rules.Rule{{
		Number: 1, Name: "web", Action: rules.Pass, State: rules.Keep,
		From: rules.Addresses{Tables: []rules.TableRef{{Name: "broken", Negated: true}}},
	}}
	e := New(Config{
		Ruleset: rules.New(list, func(string) rules.Table { return table }), States: 10, SrcNodes: 10,
		Timeouts: []conntrack.Lifetimes{{Timeouts: conntrack.DefaultTimeouts()}},
	}, scenarioSeeds)
	ack := packet.Packet{
		Tuple: packet.TupleFrom(netip.AddrPortFrom(scenarioClient, 40000), scenarioServer),
		Flags: packet.ACK, Conn: packet.ConnNew,
	}
	handle := func() (cause any) {
		defer func() { cause = recover() }()
		p, d := ack, Decision{}
		e.Handle(0, &p, &d)
		return nil
	}
	if handle() == nil {
		t.Fatal("no panic: the test does not reach what it is about")
	}
	table.broken = false
	done := make(chan any)
	go func() {
		cause := handle()
		_ = e.States(0, func(*Listed) error { return nil })
		e.Tick(time.Second, func(*Decision) {})
		done <- cause
	}()
	select {
	case cause := <-done:
		if cause != nil {
			t.Errorf("panics again: %v", cause)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("a shard is still locked")
	}
}
