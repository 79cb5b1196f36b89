package table

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/seedtest"
	"nfqfw/rules"
)

// lab is a set with one table, "t", and a clock that stands still.
type lab struct {
	*Set
	t   *testing.T
	now time.Duration
}

func newLab(t *testing.T, limit int, ttl time.Duration, entries ...string) *lab {
	t.Helper()
	l := &lab{t: t, now: time.Minute}
	l.Set = New(func() time.Duration { return l.now })
	l.reload(limit, config.Table{Name: "t", TTL: ttl, Entries: prefixes(entries...)})
	return l
}

func (l *lab) reload(limit int, list ...config.Table) {
	l.t.Helper()
	c, err := Load(l.now, list, limit)
	if err == nil {
		_, err = l.Replace(l.now, c)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func prefixes(words ...string) (list []rules.Prefix) {
	for _, w := range words {
		p, err := config.ParseEntry(w)
		if err != nil {
			panic(err)
		}
		list = append(list, p)
	}
	return list
}

func prefix(s string) netip.Prefix { return prefixes(s)[0].Prefix }

// table is "t".
func (l *lab) table() *Table {
	l.t.Helper()
	t, err := l.Table("t")
	if err != nil {
		l.t.Fatal(err)
	}
	return t
}

// has checks which addresses the table holds, and which not.
func (l *lab) has(in, out string) {
	l.t.Helper()
	for _, a := range strings.Fields(in) {
		if !l.table().Contains(netip.MustParseAddr(a)) {
			l.t.Errorf("%s is not in the table", a)
		}
	}
	for _, a := range strings.Fields(out) {
		if l.table().Contains(netip.MustParseAddr(a)) {
			l.t.Errorf("%s is in the table", a)
		}
	}
}

// list are the entries as text, with their origin and what is left of them.
func (l *lab) list() string {
	var words []string
	for e := range l.table().Entries {
		word := rules.PrefixText(e.Prefix) + " " + e.Origin.String()
		if e.Negated {
			word = "!" + word
		}
		if e.Expires != 0 {
			word += " " + (e.Expires - l.now).String()
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func (l *lab) lists(want string) {
	l.t.Helper()
	if got := l.list(); got != want {
		l.t.Errorf("the table is %s; want %s", got, want)
	}
}

func (l *lab) add(ttl time.Duration, entries ...string) {
	l.t.Helper()
	if _, err := l.AddAll(l.now, "t", prefixes(entries...), ttl); err != nil {
		l.t.Error(err)
	}
}

func (l *lab) overload(source string, want bool) {
	l.t.Helper()
	if added, err := l.Add(l.now, "t", prefix(source), Overload); err != nil || added != want {
		l.t.Errorf("overload of %s: added %v, %v; want %v", source, added, err, want)
	}
}

func (l *lab) used(want int) {
	l.t.Helper()
	if got, _ := l.Usage(); got != want {
		l.t.Errorf("%d entries are counted, want %d", got, want)
	}
}

func TestContains(t *testing.T) {
	for _, tt := range []struct{ entries, in, out string }{
		{"", "", "192.0.2.1 2001:db8::1"},
		{"192.0.2.0/24 2001:db8::/32", "192.0.2.0 192.0.2.255 ::ffff:192.0.2.7 2001:db8:ffff::1", "192.0.3.0 2001:db9::"},
		{"10.0.0.0/8 !10.1.0.0/16 10.1.2.0/24", "10.0.0.1 10.1.2.3", "10.1.0.1 10.1.3.1 11.0.0.1"},
		{"!192.0.2.0/24", "", "192.0.2.1 192.0.3.1 2001:db8::1"},
		{"0.0.0.0/0 !192.0.2.1", "192.0.2.2 0.0.0.0", "192.0.2.1 2001:db8::1"},
		{"::/0 !::ffff:192.0.2.1", "2001:db8::1", "192.0.2.1 192.0.2.2"},
	} {
		newLab(t, 100, 0, strings.Fields(tt.entries)...).has(tt.in, tt.out)
	}
}

// What runs out is gone at its time, to the nanosecond, and what it hid is there again.
func TestTTLIsExactAtLookup(t *testing.T) {
	l := newLab(t, 100, time.Hour, "10.0.0.0/8")
	l.add(10*time.Second, "!10.1.0.0/16")
	l.add(5*time.Second, "10.1.2.0/24", "!10.1.2.3", "2001:db8::1")
	l.has("10.0.0.1 10.1.2.4 2001:db8::1", "10.1.0.1 10.1.2.3")
	l.now += 5*time.Second - 1
	l.has("10.0.0.1 10.1.2.4 2001:db8::1", "10.1.0.1 10.1.2.3")
	l.now++
	l.has("10.0.0.1", "10.1.0.1 10.1.2.3 10.1.2.4 2001:db8::1")
	l.lists("10.0.0.0/8 file, !10.1.0.0/16 command 5s")
	l.now += 5 * time.Second
	l.has("10.0.0.1 10.1.0.1 10.1.2.3", "2001:db8::1")
	l.used(5)
	l.Sweep(l.now)
	l.used(1)
	l.lists("10.0.0.0/8 file")
}

func TestAddRefreshes(t *testing.T) {
	l := newLab(t, 100, time.Minute, "192.0.2.1", "!192.0.2.2")
	l.overload("198.51.100.7", true)
	l.now += 40 * time.Second
	l.overload("198.51.100.7", false)
	l.overload("192.0.2.1", false)
	l.overload("192.0.2.2", false)
	l.lists("192.0.2.1 file, !192.0.2.2 file, 198.51.100.7 overload 1m0s")
	l.now += 40 * time.Second
	l.Sweep(l.now) // the deadline it had before
	l.lists("192.0.2.1 file, !192.0.2.2 file, 198.51.100.7 overload 20s")
	l.now += 20 * time.Second
	l.has("", "198.51.100.7")
	l.Sweep(l.now)
	l.used(2)
}

// A command says how long, be it shorter or longer; an overload shortens nothing.
func TestCommandSetsTTL(t *testing.T) {
	l := newLab(t, 100, time.Minute, "192.0.2.1")
	l.add(time.Hour, "198.51.100.7", "192.0.2.1")
	l.overload("198.51.100.7", false)
	l.lists("192.0.2.1 file, 198.51.100.7 command 1h0m0s")
	l.add(time.Second, "198.51.100.7")
	l.lists("192.0.2.1 file, 198.51.100.7 command 1s")
	l.add(0, "198.51.100.7")
	l.overload("198.51.100.7", false)
	l.now += 2 * time.Hour
	l.Sweep(l.now)
	l.lists("192.0.2.1 file, 198.51.100.7 command")
}

func TestAllOrNothing(t *testing.T) {
	l := newLab(t, 4, 0, "192.0.2.1", "!192.0.2.2")
	for _, tt := range []struct{ add, want string }{
		{"198.51.100.1 !192.0.2.1 192.0.2.2", "table t: 192.0.2.1 is in the table without !; delete that first\n192.0.2.2 is in the table with !; delete that first"},
		{"198.51.100.1 !198.51.100.1", "table t: 198.51.100.1 is to be added with ! and without"},
		{"198.51.100.1 198.51.100.2 198.51.100.3", "table t: 3 new entries: the tables are full; raise limits.table_entries, or give their entries a ttl"},
	} {
		if n, err := l.AddAll(l.now, "t", prefixes(strings.Fields(tt.add)...), 0); n != 0 || fmt.Sprint(err) != tt.want {
			t.Errorf("add %s: %d, %v; want %s", tt.add, n, err, tt.want)
		}
		l.lists("192.0.2.1 file, !192.0.2.2 file")
	}
	n, err := l.AddAll(l.now, "t", prefixes("198.51.100.1", "198.51.100.1", "192.0.2.1", "10.0.0.0/8"), 0)
	if n != 2 || err != nil {
		t.Errorf("%d added, %v; want 2", n, err)
	}
	l.used(4)
}

func TestDelete(t *testing.T) {
	l := newLab(t, 100, time.Minute, "192.0.2.1", "!192.0.2.2", "192.0.2.0/24")
	l.overload("198.51.100.7", true)
	n, err := l.DeleteAll(l.now, "t", prefixes("192.0.2.1", "192.0.2.2", "198.51.100.7", "192.0.2.0/25"))
	if n != 2 || err != nil {
		t.Errorf("%d deleted, %v; want 2", n, err)
	}
	l.lists("192.0.2.0/24 file, !192.0.2.2 file")
	l.overload("198.51.100.8", true)
	l.now += time.Hour
	if n, err = l.Flush(l.now, "t"); n != 2 || err != nil {
		t.Errorf("%d flushed, %v; want 2", n, err)
	}
	l.used(0)
	l.has("", "192.0.2.3")
}

// No flood of overloads takes more memory than there is room for, whether entries run
// out or not.
func TestFullTable(t *testing.T) {
	l := newLab(t, 3, 10*time.Second, "192.0.2.1")
	l.overload("198.51.100.1", true)
	l.overload("198.51.100.2", true)
	if added, err := l.Add(l.now, "t", prefix("198.51.100.3"), Overload); added || err != ErrFull {
		t.Errorf("added %v, %v", added, err)
	}
	l.now += 10 * time.Second
	l.overload("198.51.100.3", true) // in the place of one that has run out
	l.lists("192.0.2.1 file, 198.51.100.3 overload 10s")
	for range 100_000 {
		l.add(time.Hour, "198.51.100.9")
		_, _ = l.DeleteAll(l.now, "t", prefixes("198.51.100.9"))
	}
	if n := len(l.deadlines); n > 2*staleMost {
		t.Errorf("%d deadlines for two entries", n)
	}
}

func TestUnknownTable(t *testing.T) {
	l := newLab(t, 3, 0)
	l.reload(3, config.Table{Name: "friends"}, config.Table{Name: "abusers"})
	const want = `no table "t"; there are abusers, friends`
	if _, err := l.Add(l.now, "t", prefix("10.0.0.1"), Overload); fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	l.reload(3)
	if _, err := l.Flush(l.now, "t"); fmt.Sprint(err) != `no table "t"; the configuration has none` {
		t.Error(err)
	}
	if l.Lookup("t") != nil {
		t.Error("a table that is not there is nil")
	}
}

func TestReplace(t *testing.T) {
	l := newLab(t, 100, time.Minute, "192.0.2.1", "192.0.2.2", "!192.0.2.3")
	l.overload("198.51.100.7", true)
	l.add(0, "198.51.100.8")
	l.add(time.Second, "198.51.100.9")
	before, _ := l.Table("t")
	since, _ := before.Entry(prefix("192.0.2.2"))
	l.now += 30 * time.Second
	changes := l.record()
	l.reload(50, config.Table{Name: "t", TTL: time.Hour, Entries: prefixes("192.0.2.2", "192.0.2.3", "198.51.100.7", "10.0.0.0/8")},
		config.Table{Name: "u", Entries: prefixes("10.0.0.1")})
	l.lists("10.0.0.0/8 file, 192.0.2.2 file, 192.0.2.3 file, 198.51.100.7 file, 198.51.100.8 command")
	l.used(6)
	if l.table() != before {
		t.Error("rules that use the table would lose it")
	}
	if e, _ := before.Entry(prefix("192.0.2.2")); e != since {
		t.Errorf("%+v was there before: %+v", e, since)
	}
	slices.Sort(*changes)
	want := []string{"t 10.0.0.0/8", "t 192.0.2.1/32", "t 192.0.2.3/32", "t 198.51.100.7/32", "t 198.51.100.9/32", "u 10.0.0.1/32"}
	if !slices.Equal(*changes, want) {
		t.Errorf("changes %q, want %q", *changes, want)
	}
	l.overload("198.51.100.9", true)
	l.lists("10.0.0.0/8 file, 192.0.2.2 file, 192.0.2.3 file, 198.51.100.7 file, 198.51.100.8 command, 198.51.100.9 overload 1h0m0s")
	l.reload(50, config.Table{Name: "u"})
	l.used(0)
	if _, err := l.Table("t"); err == nil {
		t.Error("a table that is not in the file is still there")
	}
	l.reload(50, config.Table{Name: "t"})
	l.lists("")
	l.now += 2 * time.Hour
	l.Sweep(l.now)
	l.used(0)
}

// record has the changes listed from now on.
func (l *lab) record() *[]string {
	var list []string
	l.Watch(func(t *Table, p netip.Prefix) { list = append(list, t.Name()+" "+p.String()) })
	return &list
}

func TestReplaceRefusesTooMany(t *testing.T) {
	l := newLab(t, 10, 0, "192.0.2.1")
	l.add(0, "198.51.100.1", "198.51.100.2")
	c, err := Load(l.now, []config.Table{{Name: "t", Entries: prefixes("192.0.2.2")}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	const want = "tables: 3 entries, those that were added while running included: limits.table_entries is 2"
	if _, err := l.Replace(l.now, c); fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	l.lists("192.0.2.1 file, 198.51.100.1 command, 198.51.100.2 command")
	if _, limit := l.Usage(); limit != 10 {
		t.Errorf("limit %d", limit)
	}
}

func TestUndoReplace(t *testing.T) {
	l := newLab(t, 10, time.Minute, "192.0.2.1")
	l.overload("198.51.100.1", true)
	before := l.table()
	c, err := Load(l.now, []config.Table{{Name: "u", Entries: prefixes("10.0.0.1", "10.0.0.2", "10.0.0.3")}}, 20)
	if err != nil {
		t.Fatal(err)
	}
	undo, err := l.Replace(l.now, c)
	if err != nil {
		t.Fatal(err)
	}
	l.used(3)
	undo()
	l.lists("192.0.2.1 file, 198.51.100.1 overload 1m0s")
	if _, limit := l.Usage(); limit != 10 || l.table() != before || len(l.Tables()) != 1 {
		t.Error("not as before")
	}
	l.now += time.Hour
	l.Sweep(l.now)
	l.used(1)
}

// model is a table that is slow and obvious.
type model map[netip.Prefix]Entry

func (m model) contains(a netip.Addr, now time.Duration) bool {
	longest, in := -1, false
	for p, e := range m {
		if p.Contains(a) && p.Bits() > longest && (e.Expires == 0 || e.Expires > now) {
			longest, in = p.Bits(), !e.Negated
		}
	}
	return in
}

// Random commands, overloads, flushes and pauses, in a world so small that they meet.
func TestTableRandom(t *testing.T) {
	r := seedtest.Rand(t)
	for range 200 {
		l, m := newLab(t, 1000, 0), model{}
		for range 100 {
			l.step(r, m)
			a := address(r)
			if got, want := l.table().Contains(a), m.contains(a, l.now); got != want {
				t.Fatalf("%s at %s: %v, want %v, of %s", a, l.now, got, want, l.list())
			}
		}
		l.now += time.Hour
		l.Sweep(l.now)
		l.used(len(m.left(l.now)))
		if len(l.deadlines) != 0 {
			t.Fatalf("%d deadlines are left", len(l.deadlines))
		}
	}
}

func (m model) left(now time.Duration) model {
	for p, e := range m {
		if e.Expires != 0 && e.Expires <= now {
			delete(m, p)
		}
	}
	return m
}

func (l *lab) step(r *rand.Rand, m model) {
	a := address(r)
	p, _ := a.Prefix(a.BitLen() - []int{0, 1, 2, 3, 8, a.BitLen()}[r.IntN(6)])
	e := rules.Prefix{Prefix: p, Negated: r.IntN(3) == 0}
	ttl := time.Duration(r.IntN(4)) * time.Second
	m.left(l.now)
	was, there := m[p]
	switch r.IntN(6) {
	case 0:
		l.now += time.Duration(r.IntN(2000)) * time.Millisecond
	case 1:
		l.Sweep(l.now)
	case 2:
		if n, _ := l.DeleteAll(l.now, "t", []rules.Prefix{e}); (n == 1) != (there && was.Negated == e.Negated) {
			l.t.Fatalf("deleted %d of %v, which is %v %v", n, e, there, was)
		}
		if there && was.Negated == e.Negated {
			delete(m, p)
		}
	default:
		n, err := l.AddAll(l.now, "t", []rules.Prefix{e}, ttl)
		if (n == 1) != !there || (err != nil) != (there && was.Negated != e.Negated) {
			l.t.Fatalf("added %d of %v, which is %v %v: %v", n, e, there, was, err)
		}
		if err == nil {
			m[p] = Entry{Negated: e.Negated, Expires: after(l.now, ttl)}
		}
	}
}

func address(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(8))})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(8))})
}

// Look-ups, commands, overloads, sweeps, listings and reloads at the same time: for
// the race detector, and that all entries are counted in the end.
func TestConcurrent(t *testing.T) {
	start := time.Now()
	clock := func() time.Duration { return time.Since(start) }
	s := New(clock)
	replace := func() {
		c, err := Load(clock(), []config.Table{{Name: "t", TTL: time.Millisecond, Entries: prefixes("10.0.0.0/8", "!10.1.0.0/16")}}, 500)
		if err == nil {
			_, err = s.Replace(clock(), c)
		}
		if err != nil {
			t.Error(err)
		}
	}
	replace()
	var all sync.WaitGroup
	for _, work := range []func(i int){
		func(i int) { _, _ = s.Add(clock(), "t", netip.PrefixFrom(nth(i), 32), Overload) },
		func(i int) { _, _ = s.AddAll(clock(), "t", []rules.Prefix{{Prefix: netip.PrefixFrom(nth(i), 32)}}, 0) },
		func(i int) { _, _ = s.DeleteAll(clock(), "t", []rules.Prefix{{Prefix: netip.PrefixFrom(nth(i), 32)}}) },
		func(i int) { s.Lookup("t").Contains(nth(i)) },
		func(int) { s.Sweep(clock()) },
		func(i int) {
			if i%100 == 0 {
				replace()
			}
		},
		func(i int) {
			for range s.Tables()[0].Entries {
			}
		},
	} {
		all.Go(func() {
			for i := range 2000 {
				work(i)
			}
		})
	}
	all.Wait()
	if n, _ := s.Usage(); n != s.Tables()[0].Len() {
		t.Errorf("%d entries are counted, %d are there", n, s.Tables()[0].Len())
	}
}

// nth is an address out of 16 million.
func nth(i int) netip.Addr {
	i = int(uint32(i)*2654435761) >> 8
	return netip.AddrFrom4([4]byte{byte(11 + i%7), byte(i >> 16), byte(i >> 8), byte(i)})
}

func TestLookupDoesNotAllocate(t *testing.T) {
	l := newLab(t, 100, time.Minute, "10.0.0.0/8", "!10.1.0.0/16")
	l.overload("10.1.2.3", true)
	table, a := l.table(), netip.MustParseAddr("10.1.2.3")
	for range 2 {
		if n := testing.AllocsPerRun(100, func() { table.Contains(a) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
		l.now += time.Hour // it has run out, and is there
	}
}
