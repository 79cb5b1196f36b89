package table

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/config"
)

// filled is a set with n addresses in its table that run out in an hour.
func filled(b *testing.B, n int) *Set {
	s := New(func() time.Duration { return time.Second })
	c, err := Load(0, []config.Table{{Name: "t", TTL: time.Hour}}, n+b.N+1)
	if err != nil {
		b.Fatal(err)
	}
	for i := range n {
		p := netip.PrefixFrom(nth(i), 32)
		c.tables[0].trie.Insert(p, value{expires: time.Hour})
	}
	if _, err := s.Replace(0, c); err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkContains(b *testing.B) {
	for _, n := range []int{10, 1000, 1_000_000} {
		s := filled(b, n)
		t := s.Lookup("t")
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				t.Contains(nth(i))
				i++
			}
		})
	}
}

// New ones, into a table of a million.
func BenchmarkAdd(b *testing.B) {
	s := filled(b, 1_000_000)
	s.limit = 100_000_000
	i := 1_000_000
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Add(0, "t", netip.PrefixFrom(nth(i), 32), Overload); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// A reload of a million entries, of which none changes.
func BenchmarkReplace(b *testing.B) {
	s := filled(b, 1_000_000)
	for b.Loop() {
		next := &Contents{limit: 2_000_000, tables: []content{{name: "t", trie: s.tables["t"].trie.Load().Clone()}}}
		if _, err := s.Replace(0, next); err != nil {
			b.Fatal(err)
		}
	}
}
