package table

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/gaissmai/bart"
)

// trie never changes once it is a table's.
type trie = bart.Table[value]

// Table is one table of a Set. It is safe for concurrent use.
type Table struct {
	name  string
	clock func() time.Duration
	trie  atomic.Pointer[trie]
	ttl   atomic.Int64 // of what is added, as a time.Duration; 0: for ever
}

func newTable(name string, clock func() time.Duration) *Table {
	t := &Table{name: name, clock: clock}
	t.trie.Store(new(trie))
	return t
}

// Name is the table's name.
func (t *Table) Name() string { return t.name }

// TTL is how long an entry that is added stays unless told otherwise; 0: for ever.
func (t *Table) TTL() time.Duration { return time.Duration(t.ttl.Load()) }

// Len is how many entries there are, those included that have run out and were not
// swept yet.
func (t *Table) Len() int { return t.trie.Load().Size() }

// Contains says whether the table holds an address.
func (t *Table) Contains(a netip.Addr) bool {
	trie := t.trie.Load()
	v, ok := trie.Lookup(a.Unmap())
	if ok && v.expires != 0 {
		if now := t.clock(); v.expired(now) {
			v, ok = longestLiving(trie, a.Unmap(), now)
		}
	}
	return ok && !v.negated
}

// longestLiving looks for the longest entry that holds an address and has not run out.
func longestLiving(trie *trie, a netip.Addr, now time.Duration) (value, bool) {
	for bits := a.BitLen(); bits >= 0; {
		p, v, ok := trie.LookupPrefixLPM(netip.PrefixFrom(a, bits))
		if !ok || !v.expired(now) {
			return v, ok
		}
		bits = p.Bits() - 1
	}
	return value{}, false
}

// Entry is the entry of exactly that prefix.
func (t *Table) Entry(p netip.Prefix) (Entry, bool) {
	v, ok := t.trie.Load().Get(p)
	if !ok || v.expired(t.clock()) {
		return Entry{}, false
	}
	return v.entry(p), true
}

// Entries lists the entries as they are now, IPv4 first, in the order of their
// addresses, until yield returns false.
func (t *Table) Entries(yield func(Entry) bool) {
	now := t.clock()
	for p, v := range t.trie.Load().AllSorted() {
		if !v.expired(now) && !yield(v.entry(p)) {
			return
		}
	}
}
