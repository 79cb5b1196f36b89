package table

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"nfqfw/rules"
)

// ErrFull is the error of an entry for which there is no room.
var ErrFull = errors.New("the tables are full; raise limits.table_entries, or give their entries a ttl")

// Set is all tables. It is safe for concurrent use.
type Set struct {
	clock func() time.Duration
	watch []func(t *Table, p netip.Prefix)

	mu        sync.Mutex
	tables    map[string]*Table
	entries   int // of all tables, those included that have run out and were not swept yet
	limit     int // of entries
	deadlines deadlines
	tickets   uint64 // given
}

// New makes a set without a table. The clock is for look-ups, which are not told the time.
func New(clock func() time.Duration) *Set {
	return &Set{clock: clock, tables: make(map[string]*Table)}
}

// Watch has every change told: that there is another entry of that prefix, or none
// any more. It is to be called before there is a table, by each who wants to be told; f
// must be quick, and may ask the table but not the set.
func (s *Set) Watch(f func(t *Table, p netip.Prefix)) { s.watch = append(s.watch, f) }

func (s *Set) changed(t *Table, p netip.Prefix) {
	for _, f := range s.watch {
		f(t, p)
	}
}

// Lookup finds a table for a ruleset; nil if there is none.
func (s *Set) Lookup(name string) rules.Table {
	if t, err := s.Table(name); err == nil {
		return t
	}
	return nil
}

// Table finds a table.
func (s *Set) Table(name string) (*Table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named(name)
}

func (s *Set) named(name string) (*Table, error) {
	if t := s.tables[name]; t != nil {
		return t, nil
	}
	if len(s.tables) == 0 {
		return nil, fmt.Errorf("no table %q; the configuration has none", name)
	}
	var names []string
	for _, t := range s.sorted() {
		names = append(names, t.name)
	}
	return nil, fmt.Errorf("no table %q; there are %s", name, strings.Join(names, ", "))
}

// Tables are all of them, by name.
func (s *Set) Tables() []*Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted()
}

func (s *Set) sorted() []*Table {
	list := make([]*Table, 0, len(s.tables))
	for _, t := range s.tables {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *Table) int { return strings.Compare(a.name, b.name) })
	return list
}

// Usage is how many entries there are, and how many there may be.
func (s *Set) Usage() (entries, limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries, s.limit
}

// insert puts an entry in, or in the place of the one that is there, and awaits its end.
func (s *Set) insert(t *Table, p netip.Prefix, v value) {
	v.ticket = 0
	if v.expires != 0 {
		v.ticket = s.await(deadline{at: v.expires, table: t, prefix: p})
	}
	s.replace(t, p, v)
}

// replace puts in an entry whose end is awaited already.
func (s *Set) replace(t *Table, p netip.Prefix, v value) {
	s.swap(t, t.trie.Load().InsertPersist(p, v), p)
}

func (s *Set) remove(t *Table, p netip.Prefix) { s.swap(t, t.trie.Load().DeletePersist(p), p) }

// swap gives a table another trie, which differs in one prefix.
func (s *Set) swap(t *Table, next *trie, p netip.Prefix) {
	before := t.trie.Swap(next)
	s.entries += next.Size() - before.Size()
	s.changed(t, p)
}
