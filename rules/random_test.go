package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
)

func newWorld(r *rand.Rand) world {
	return world{r, map[string]fakeTable{"a": {}, "b": {}, "c": {}}}
}

// Match against a matcher that is slow and obvious, on rules, tables and connections
// from a world so small that they meet. Tables change all the time.
func TestMatchRandom(t *testing.T) {
	w := newWorld(seedtest.Rand(t))
	hits, total := 0, 0
	for range 2000 {
		list := w.rules(w.IntN(6))
		hits += w.compare(t, list, 10)
		total += 10
	}
	if seedtest.Fixed() && (hits < total/4 || hits > total*3/4) {
		t.Errorf("%d of %d connections had a rule: the world is too large or too small", hits, total)
	}
}

// The same with rulesets of which a set takes several leaves, and levels. A rule is
// about one port mostly, so that few match a connection.
func TestMatchRandomMany(t *testing.T) {
	w := newWorld(seedtest.Rand(t))
	for _, n := range []int{63, 64, 65, 200, 1023, 1024, 1025, 3000, 17000} {
		list := w.rules(n)
		for i := range list {
			r := &list[i]
			r.Ports = []PortRange{port(uint16(w.IntN(n)))}
			if w.IntN(4) > 0 {
				r.From, r.To, r.On, r.NotOn = Addresses{}, Addresses{}, nil, nil
			}
		}
		if hits := w.compare(t, list, 200); seedtest.Fixed() && (hits < 20 || hits > 180) {
			t.Errorf("%d of 200 connections had one of %d rules: too few or too many", hits, n)
		}
	}
}

// compare matches connections in two ways, and says how many had a rule.
func (w world) compare(t *testing.T, list []Rule, connections int) (hits int) {
	t.Helper()
	set := New(list, w.table)
	for range connections {
		w.change()
		in, c := w.device(), w.connection()
		got, want := nameOf(set.Match(in, c)), nameOf(w.slowMatch(list, in, c))
		if got != want {
			t.Fatalf("%v, in by %s, tables %v: rule %s, want %s, of\n%s", c, in, w.tables, got, want, listing(list))
		}
		if want != none {
			hits++
		}
	}
	return hits
}

func listing(list []Rule) string {
	var b strings.Builder
	for _, r := range list[:min(len(list), 100)] {
		fmt.Fprintf(&b, "%s: quick %v, on %v, not on %v, from %v, to %v, ports %v\n", r.Name, r.Quick, r.On, r.NotOn, r.From, r.To, r.Ports)
	}
	return b.String()
}

// slowMatch lists all rules that match, then chooses.
func (w world) slowMatch(list []Rule, in string, c packet.Tuple) *Rule {
	var matching []*Rule
	for i := range list {
		r := &list[i]
		if slowOn(r.On, in) && slowNotOn(r.NotOn, in) && slowPort(r.Ports, int(c.DstPort)) && w.slowHolds(r.From, c.Src) && w.slowHolds(r.To, c.Dst) {
			matching = append(matching, r)
		}
	}
	for _, r := range matching {
		if r.Quick {
			return r
		}
	}
	if len(matching) == 0 {
		return nil
	}
	return matching[len(matching)-1]
}

func slowOn(on []string, in string) bool {
	return on == nil || strings.Contains(" "+strings.Join(on, " ")+" ", " "+in+" ")
}

func slowNotOn(notOn []string, in string) bool {
	return notOn == nil || in != "" && !slowOn(notOn, in)
}

func slowPort(ranges []PortRange, port int) bool {
	named := make(map[int]bool)
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			named[p] = true
		}
	}
	return named[port] || len(ranges) == 0
}

// slowHolds is Addresses' doc, sentence by sentence.
func (w world) slowHolds(l Addresses, a packet.Addr) bool {
	named, held := false, false
	for _, ref := range l.Tables {
		in := w.tables[ref.Name][a.Netip()] // nobody is in a table that does not exist
		if ref.Negated && in {
			return false
		}
		named = named || !ref.Negated
		held = held || !ref.Negated && in
	}
	in, known, plain := slowFind(l.Prefixes, a)
	if known {
		return in
	}
	return held || !named && !plain
}

func slowContains(l Prefixes, a packet.Addr) bool {
	in, known, plain := slowFind(l, a)
	return in || !known && !plain
}

// slowFind compares bits as text: of the prefixes that an address begins with,
// the longest text decides. It says whether a prefix is not negated.
func slowFind(l Prefixes, a packet.Addr) (in, known, plain bool) {
	address := bitText(a.Netip())
	best := ""
	for _, p := range l {
		text := bitText(p.Addr())[:len("4:")+p.Bits()]
		if strings.HasPrefix(address, text) && len(text) > len(best) {
			best, in, known = text, !p.Negated, true
		}
		plain = plain || !p.Negated
	}
	return in, known, plain
}

// bitText is "4:" or "6:", then the address in zeros and ones.
func bitText(a netip.Addr) string {
	family := "6:"
	if a.Is4() {
		family = "4:"
	}
	var b strings.Builder
	for _, octet := range a.AsSlice() {
		fmt.Fprintf(&b, "%08b", octet)
	}
	return family + b.String()
}

func TestPrefixesRandom(t *testing.T) {
	w := newWorld(seedtest.Rand(t))
	for range 20000 {
		l, a := w.prefixes(), w.address()
		if got, want := l.Contains(a), slowContains(l, packet.AddrFrom(a)); got != want {
			t.Fatalf("%s in %v: %v, want %v", a, l, got, want)
		}
	}
}

// A world makes rules, tables and connections out of few interfaces, ports and
// addresses.
type world struct {
	*rand.Rand
	tables map[string]fakeTable
}

type fakeTable map[netip.Addr]bool

func (t fakeTable) Contains(a netip.Addr) bool { return t[a] }

func (w world) table(name string) Table {
	if t, ok := w.tables[name]; ok {
		return t
	}
	return nil
}

// change puts an address into a table, or takes it out.
func (w world) change() {
	t, a := w.tables[w.tableName()], w.address()
	if t != nil {
		t[a] = !t[a]
	}
}

func (w world) tableName() string { return []string{"a", "b", "c", "no such"}[w.IntN(4)] }

func (w world) rules(n int) []Rule {
	list := make([]Rule, n)
	for i := range list {
		list[i] = Rule{
			Name: fmt.Sprint("r", i+1), Quick: w.IntN(4) == 0,
			On: few(w, 2, w.device), Ports: few(w, 3, w.ports), From: w.addresses(), To: w.addresses(),
		}
		if list[i].On == nil {
			list[i].NotOn = few(w, 2, w.device)
		}
	}
	return list
}

// few makes up to n of something, often none.
func few[T any](w world, n int, one func() T) []T {
	var l []T
	for range max(0, w.IntN(2*n+1)-n) {
		l = append(l, one())
	}
	return l
}

func (w world) device() string { return []string{"eth0", "eth1", "eth10"}[w.IntN(3)] }

// ports are mostly low; the last one is among them.
func (w world) ports() PortRange {
	first := uint16(w.IntN(8))
	if w.IntN(8) == 0 {
		first = 65530
	}
	return PortRange{first, first + uint16(w.IntN(6))}
}

// address is near one of a few, among them the first and the last of either family.
func (w world) address() netip.Addr {
	text := []string{"10.0.0.0", "10.0.1.0", "2001:db8::", "2001:db8::1:0"}[w.IntN(4)]
	if w.IntN(4) == 0 {
		text = []string{"0.0.0.0", "255.255.255.248", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff8"}[w.IntN(4)]
	}
	octets := netip.MustParseAddr(text).AsSlice()
	octets[len(octets)-1] += byte(w.IntN(8))
	a, _ := netip.AddrFromSlice(octets)
	return a
}

func (w world) addresses() Addresses {
	return Addresses{Prefixes: w.prefixes(), Tables: few(w, 2, func() TableRef {
		return TableRef{Name: w.tableName(), Negated: w.IntN(3) == 0}
	})}
}

// prefixes never has one prefix twice: it could be in and out.
func (w world) prefixes() Prefixes {
	seen := make(map[netip.Prefix]bool)
	var l Prefixes
	for _, p := range few(w, 5, w.prefix) {
		if !seen[p.Prefix] {
			seen[p.Prefix] = true
			l = append(l, p)
		}
	}
	return l
}

// prefix is mostly a long one.
func (w world) prefix() Prefix {
	a := w.address()
	short := []int{0, 1, 2, 3, 4, 8, 12, a.BitLen()}[w.IntN(8)]
	p := netip.PrefixFrom(a, a.BitLen()-short).Masked()
	return Prefix{Prefix: p, Negated: w.IntN(3) == 0}
}

func (w world) connection() packet.Tuple {
	to := uint16(w.IntN(12))
	if w.IntN(8) == 0 {
		to = 65535 - uint16(w.IntN(8))
	}
	return packet.TupleFrom(netip.AddrPortFrom(w.address(), uint16(w.IntN(8))), netip.AddrPortFrom(w.address(), to))
}
