package rules

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// webServers is a ruleset of n web servers, each with its own exception.
func webServers(n int) []Rule {
	list := make([]Rule, n)
	for i := range list {
		server := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		list[i] = Rule{
			Name: fmt.Sprint("web", i), On: []string{"eth0"}, From: addresses("!10.0.0.0/8"),
			To: Addresses{Prefixes: Prefixes{{Prefix: netip.PrefixFrom(server, 32)}}}, Ports: []PortRange{port(80), port(443)},
		}
	}
	return list
}

// blocking puts a rule before each that blocks the addresses of a table, and so makes
// all rules candidates as far as the source is concerned.
func blocking(list []Rule) []Rule {
	var all []Rule
	for i, r := range list {
		r.From.Tables = []TableRef{{Name: "abusers", Negated: true}}
		block := Rule{Name: fmt.Sprint("block", i), Action: Block, Quick: true, To: r.To}
		block.From.Tables = []TableRef{{Name: "abusers"}}
		all = append(all, block, r)
	}
	return all
}

// scattered are n prefixes, no two next to each other.
func scattered(n int) Prefixes {
	l := make(Prefixes, n)
	for i := range l {
		a := binary.BigEndian.AppendUint32(nil, uint32(i+1)*2654435761)
		l[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte(a)), 32-i%9).Masked()
	}
	return l
}

func abusers(string) Table { return fakeTable{netip.MustParseAddr("203.0.113.1"): true} }

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { match(b, webServers(n)) })
	}
	for _, n := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint("tables/", n), func(b *testing.B) { match(b, blocking(webServers(n))) })
	}
	b.Run("prefixes/100000", func(b *testing.B) {
		match(b, []Rule{{Name: "all"}, {Name: "many", From: Addresses{Prefixes: scattered(100_000)}}})
	})
}

func match(b *testing.B, list []Rule) {
	set, c := New(list, abusers), connection("198.51.100.7 > 192.0.0.5:443")
	b.ReportAllocs()
	for b.Loop() {
		if set.Match("eth0", c) == nil {
			b.Fatal("no rule")
		}
	}
}

// What a large ruleset takes to make, and to keep.
func BenchmarkNew(b *testing.B) {
	spread := webServers(10000) // ten prefixes a rule
	prefixes := scattered(100_000)
	for i := range spread {
		spread[i].From.Prefixes = prefixes[i*10 : i*10+10]
	}
	for _, bb := range []struct {
		name string
		list []Rule
	}{
		{"1000 rules", webServers(1000)},
		{"10000 rules", webServers(10000)},
		{"10000 rules of 10 prefixes", spread},
		{"100000 prefixes", []Rule{{From: Addresses{Prefixes: prefixes}}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var set *Ruleset
			for b.Loop() {
				set = New(bb.list, abusers)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(int64(after.HeapAlloc)-int64(before.HeapAlloc))/1e6, "MB-kept")
			runtime.KeepAlive(set)
		})
	}
}

// A match is made for each new connection, of a flood too.
func TestMatchDoesNotAllocate(t *testing.T) {
	set, c := New(blocking(webServers(1000)), abusers), connection("198.51.100.7 > 192.0.0.5:443")
	if n := testing.AllocsPerRun(100, func() { set.Match("eth0", c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Rules share what they have in common: what is kept grows with what they say, not
// with its square.
func TestSetsShare(t *testing.T) {
	nodes := func(n int) int {
		s := New(webServers(n), abusers)
		return len(s.nodes) + len(s.leaves)
	}
	few, many := nodes(500), nodes(5000)
	if many > few*15 {
		t.Errorf("%d nodes for 500 rules, %d for ten times as many", few, many)
	}
}
