package table

import (
	"errors"
	"fmt"
	"time"

	"nfqfw/internal/config"
	"nfqfw/rules"
)

// Contents is what a configuration says of the tables, its files read.
type Contents struct {
	tables []content
	total  int // entries
	limit  int // of entries
}

type content struct {
	name string
	ttl  time.Duration
	trie *trie
}

// maxErrors is how many of its lines an error about one table names.
const maxErrors = 10

// Load reads the files that tables name. Its error has a line for each thing that is
// wrong, but no more than a few for a table. limit bounds the entries of all tables;
// they came now.
func Load(now time.Duration, list []config.Table, limit int) (*Contents, error) {
	c := &Contents{limit: limit}
	var all []error
	for i := range list {
		l := loader{trie: new(trie), now: now, room: limit - c.total}
		l.load(&list[i])
		all = append(all, l.told(list[i].Name)...)
		c.tables = append(c.tables, content{name: list[i].Name, ttl: list[i].TTL, trie: l.trie})
		c.total += l.trie.Size()
	}
	if len(all) > 0 {
		return nil, errors.Join(all...)
	}
	return c, nil
}

// loader fills one table.
type loader struct {
	trie   *trie
	now    time.Duration
	room   int // how many entries it may have
	errs   []error
	untold int // errors, beyond those in errs
}

func (l *loader) load(t *config.Table) {
	for _, p := range t.Entries {
		if err := l.add(p); err != nil {
			l.fail(err)
			return
		}
	}
	if t.File == "" {
		return
	}
	err := readEntries(t.File, func(line int, p rules.Prefix, err error) error {
		if err == nil {
			err = l.add(p)
		}
		if errors.Is(err, errTooMany) {
			return err
		}
		if err != nil {
			l.fail(fmt.Errorf("file %s: line %d: %w", t.File, line, err))
		}
		return nil
	})
	if err != nil {
		l.fail(fmt.Errorf("file %s: %w", t.File, err))
	}
}

var errTooMany = errors.New("too many entries")

func (l *loader) add(p rules.Prefix) error {
	v, there := l.trie.Get(p.Prefix)
	switch {
	case there && v.negated != p.Negated:
		return fmt.Errorf("%s is in the table already, %s", rules.PrefixText(p.Prefix), with(v.negated))
	case !there && l.trie.Size() >= l.room:
		return fmt.Errorf("%w: limits.table_entries leaves room for %d; raise it", errTooMany, l.room)
	case !there:
		l.trie.Insert(p.Prefix, value{added: l.now, negated: p.Negated})
	}
	return nil
}

func (l *loader) fail(err error) {
	if len(l.errs) == maxErrors {
		l.untold++
		return
	}
	l.errs = append(l.errs, err)
}

// told are the errors of a table, each with its place.
func (l *loader) told(name string) (list []error) {
	if l.untold > 0 {
		l.errs = append(l.errs, fmt.Errorf("and %d more", l.untold))
	}
	for _, err := range l.errs {
		list = append(list, fmt.Errorf("table.%s: %w", name, err))
	}
	return list
}

// Replace makes the tables those of a configuration: what an earlier one wrote goes,
// and what commands and overloads added stays in the tables that are still there.
// After an error nothing has changed. Contents are good for one time. To undo it is
// for at once: what was added meanwhile is lost.
func (s *Set) Replace(now time.Duration, c *Contents) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, next := range c.tables {
		if old := s.tables[next.name]; old != nil {
			next.inherit(old.trie.Load(), now)
		}
		total += next.trie.Size()
	}
	if total > c.limit {
		return nil, fmt.Errorf("tables: %d entries, those that were added while running included: limits.table_entries is %d", total, c.limit)
	}
	before := make([]content, 0, len(s.tables))
	for _, t := range s.tables {
		before = append(before, content{name: t.name, ttl: t.TTL(), trie: t.trie.Load()})
	}
	entries, limit, known := s.entries, s.limit, s.tables
	s.become(c.tables, known, total, c.limit)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.become(before, known, entries, limit)
	}, nil
}

// become gives the set other tables; those that are known are kept by name, as rules
// may use them.
func (s *Set) become(list []content, known map[string]*Table, entries, limit int) {
	s.tables, s.entries, s.limit = make(map[string]*Table, len(list)), entries, limit
	for _, next := range list {
		t := known[next.name]
		if t == nil {
			t = newTable(next.name, s.clock)
		}
		s.tables[next.name] = t
		t.ttl.Store(int64(next.ttl))
		s.tellDifference(t, t.trie.Swap(next.trie), next.trie)
	}
}

// inherit takes over what commands and overloads have added, and since when the
// configuration's entries are there.
func (c content) inherit(old *trie, now time.Duration) {
	for p, v := range old.All() {
		written, there := c.trie.Get(p)
		switch {
		case there && v.origin == File:
			written.added = v.added
			c.trie.Insert(p, written)
		case !there && v.origin != File && !v.expired(now):
			c.trie.Insert(p, v)
		}
	}
}

// tellDifference tells of the entries that one trie has and the other has not, or has
// otherwise.
func (s *Set) tellDifference(t *Table, old, next *trie) {
	for p, was := range old.All() {
		if v, there := next.Get(p); !there || v.negated != was.negated || v.expires != was.expires {
			s.changed(t, p)
		}
	}
	for p := range next.All() {
		if _, there := old.Get(p); !there {
			s.changed(t, p)
		}
	}
}
