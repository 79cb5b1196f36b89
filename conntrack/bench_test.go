package conntrack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"nfqfw/internal/packet"
)

// sizes are how many states benchmarks of the table have in it.
var sizes = []int{1000, 100_000, 1_000_000}

// scattered is the SYN of one of many clients.
func scattered(i int) packet.Packet {
	p := firstSYN
	binary.BigEndian.PutUint32(p.Src[12:], uint32(i)*2654435761)
	return p
}

var firstSYN = *synFrom(1024)

// filled is a table of n states of as many clients.
func filled(tb testing.TB, n int) *Table {
	tb.Helper()
	t := NewTable(n+1, NewSources(n, 1), 1)
	for i := range n {
		p := scattered(i)
		sh := t.Lock(p.Tuple)
		if _, err := insert(sh, begun(&p, 0)); err != nil {
			tb.Fatal(err)
		}
		sh.Unlock()
	}
	return t
}

// ofEachSize measures f with a table of each size; to fill it takes no time.
func ofEachSize(b *testing.B, f func(b *testing.B, t *Table, n int)) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := filled(b, n)
			b.ReportAllocs()
			b.ResetTimer()
			f(b, t, n)
		})
	}
}

// What is looked up are states here and there in memory.
func BenchmarkFind(b *testing.B) {
	ofEachSize(b, func(b *testing.B, t *Table, n int) {
		for i := range b.N {
			p := scattered(i * stride % n)
			lookUp(b, t, p.Tuple.Reverse())
		}
	})
}

// stride leads from a state to one that is far away.
const stride = 7919 * 31

func lookUp(tb testing.TB, t *Table, tuple packet.Tuple) {
	sh := t.Lock(tuple)
	defer sh.Unlock()
	if s, _ := sh.Find(tuple); s == nil {
		tb.Fatalf("%v is not found", tuple)
	}
}

// A state comes into a table of so many, and goes.
func BenchmarkInsert(b *testing.B) {
	ofEachSize(b, func(b *testing.B, t *Table, n int) {
		for i := range b.N {
			p := scattered(n + i*stride%n)
			s := begun(&p, 0)
			sh := t.Lock(s.Tuple)
			placed, err := sh.Insert(&s)
			if err != nil {
				b.Fatal(err)
			}
			sh.Remove(placed)
			sh.Unlock()
		}
	})
}

// A sweep looks at every state; the time is that of one state.
func BenchmarkEach(b *testing.B) {
	ofEachSize(b, func(b *testing.B, t *Table, n int) {
		old := 0
		for done := 0; done < b.N; done += n {
			for i := range t.Shards() {
				sh := t.LockShard(i)
				sh.Each(func(s *State) {
					if s.Refreshed > time.Second {
						old++
					}
				})
				sh.Unlock()
			}
		}
	})
}

// A source is held for a connection, and let go with it.
func BenchmarkSources(b *testing.B) {
	for _, n := range sizes[:2] {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t, nodes, limits := NewSources(n+1, 1), &Nodes{}, &Limits{Conns: 10}
			keys := make([]SourceKey, n)
			for i := range keys {
				keys[i] = SourceKey{1, prefixOf(i)}
				if _, err := t.Acquire(keys[i], nodes, limits, 0, false); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				s, err := t.Acquire(keys[i*stride%n], nodes, limits, 0, false)
				if err != nil {
					b.Fatal(err)
				}
				t.Drop(s, 0)
			}
		})
	}
}

func prefixOf(i int) netip.Prefix {
	p := scattered(i)
	return netip.PrefixFrom(p.Src.Netip(), 32)
}

// A gateway is to have room for a million states: so many octets for each, what is
// needed to find it included.
func TestMemoryOfAState(t *testing.T) {
	const n, most = 1_000_000, 256
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	table := filled(t, n)
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(int64(after.HeapAlloc)-int64(before.HeapAlloc)) / n
	t.Logf("%.1f octets for each of %d states", each, table.Len())
	if each > most {
		t.Errorf("%.1f octets a state, more than %d", each, most)
	}
}

// In a table that is full of states a look-up takes a few steps.
func TestIndexIsShort(t *testing.T) {
	table := filled(t, 100_000)
	steps, longest := 0, 0
	for i := range table.shards {
		x := &table.shards[i].index
		if len(x.slots)*3 < x.count*4 {
			t.Errorf("shard %d: %d states in %d slots", i, x.count, len(x.slots))
		}
		for at, e := range x.slots {
			if e.place != 0 {
				n := int((uint32(at)-e.tag)&x.mask()) + 1
				steps, longest = steps+n, max(longest, n)
			}
		}
	}
	if mean := float64(steps) / float64(table.Len()); mean > 4 || longest > 200 {
		t.Errorf("%.1f steps to an entry, %d at most", mean, longest)
	}
}

// Whatever is added and removed, in whatever order, what is there is found and nothing
// else.
func TestIndex(t *testing.T) {
	x := newIndex()
	const tags = 50 // so few that they meet, and go round the end
	there := make(map[uint32]bool)
	random := uint32(1)
	for range 200_000 {
		random = random*1664525 + 1013904223
		place := (random >> 8) % 500
		tag := (place % tags) << 3
		if there[place] {
			x.remove(tag, place)
		} else {
			x.add(tag, place)
		}
		there[place] = !there[place]
	}
	for place, is := range there {
		if x.holds((place%tags)<<3, place) != is {
			t.Errorf("place %d: found %v, want %v", place, !is, is)
		}
	}
}

func (x *index) holds(tag, place uint32) bool {
	for i := tag & x.mask(); x.slots[i].place != 0; i = (i + 1) & x.mask() {
		if x.slots[i].place == place+1 {
			return x.slots[i].tag == tag
		}
	}
	return false
}

// Both directions of a connection are in one shard, and all shards are used.
func TestHashHasNoDirection(t *testing.T) {
	h := newHasher(7)
	var shards [tableShards]int
	const n = 64_000
	for i := range n {
		p := scattered(i)
		a := p.Tuple
		b := a.Reverse()
		if h.tuple(&a) != h.tuple(&b) {
			t.Fatalf("%v and its reverse differ", a)
		}
		shards[h.tuple(&a)%tableShards]++
	}
	for i, is := range shards {
		if is < n/tableShards*8/10 || is > n/tableShards*12/10 {
			t.Errorf("shard %d holds %d of %d", i, is, n)
		}
	}
}
