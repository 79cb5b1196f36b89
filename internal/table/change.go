package table

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nfqfw/rules"
)

// Add puts a prefix into a table for as long as the table says, and tells whether it
// is new. One that is there lives on for at least that long; what the table has
// negated stays so. Add is for packets: it is quick, also if the table is full.
func (s *Set) Add(now time.Duration, name string, p netip.Prefix, from Origin) (added bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.named(name)
	if err != nil {
		return false, err
	}
	expires := after(now, t.TTL())
	v, there := living(t, p, now)
	switch {
	case there && (v.negated || v.expires == 0 || expires != 0 && v.expires >= expires):
		return false, nil
	case there:
		s.refresh(t, p, v, expires)
		return false, nil
	case !s.room(1, now):
		return false, ErrFull
	}
	s.insert(t, p, value{added: now, expires: expires, origin: from})
	return true, nil
}

// AddAll does what a command says: all entries become the table's, or none and the
// error says why. One that is there gets the new time to live, unless it is the
// configuration's, which stays for ever. AddAll tells how many are new.
func (s *Set) AddAll(now time.Duration, name string, list []rules.Prefix, ttl time.Duration) (added int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.named(name)
	if err != nil {
		return 0, err
	}
	fresh, err := s.fresh(t, list, now)
	if err != nil {
		return 0, fmt.Errorf("table %s: %w", name, err)
	}
	if !s.room(fresh, now) {
		return 0, fmt.Errorf("table %s: %d new entries: %w", name, fresh, ErrFull)
	}
	expires := after(now, ttl)
	for _, p := range list {
		v, there := living(t, p.Prefix, now)
		switch {
		case !there:
			s.insert(t, p.Prefix, value{added: now, expires: expires, origin: Command, negated: p.Negated})
		case v.origin != File:
			s.refresh(t, p.Prefix, v, expires)
		}
	}
	return fresh, nil
}

// fresh counts the prefixes that the table does not have, and finds those that it has
// the other way round.
func (s *Set) fresh(t *Table, list []rules.Prefix, now time.Duration) (n int, err error) {
	negated := make(map[netip.Prefix]bool)
	var errs []error
	for _, p := range list {
		was, listed := negated[p.Prefix]
		v, there := living(t, p.Prefix, now)
		switch {
		case listed && was != p.Negated:
			errs = append(errs, fmt.Errorf("%s is to be added with ! and without", rules.PrefixText(p.Prefix)))
		case there && v.negated != p.Negated:
			errs = append(errs, fmt.Errorf("%s is in the table %s; delete that first", rules.PrefixText(p.Prefix), with(v.negated)))
		case !there && !listed:
			n++
		}
		negated[p.Prefix] = p.Negated
	}
	return n, errors.Join(errs...)
}

func with(negated bool) string {
	if negated {
		return "with !"
	}
	return "without !"
}

// DeleteAll takes entries out, wherever they come from, and tells how many there were.
// Those of the configuration come back with the next reload.
func (s *Set) DeleteAll(now time.Duration, name string, list []rules.Prefix) (deleted int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.named(name)
	if err != nil {
		return 0, err
	}
	for _, p := range list {
		if v, there := living(t, p.Prefix, now); there && v.negated == p.Negated {
			s.remove(t, p.Prefix)
			deleted++
		}
	}
	return deleted, nil
}

// Flush empties a table, and tells how many entries there were.
func (s *Set) Flush(now time.Duration, name string) (deleted int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.named(name)
	if err != nil {
		return 0, err
	}
	before := t.trie.Swap(new(trie))
	s.entries -= before.Size()
	for p, v := range before.All() {
		if !v.expired(now) {
			deleted++
		}
		s.changed(t, p)
	}
	return deleted, nil
}

// living is the entry of exactly that prefix, unless it has run out.
func living(t *Table, p netip.Prefix, now time.Duration) (value, bool) {
	v, ok := t.trie.Load().Get(p)
	return v, ok && !v.expired(now)
}

// after is the end of a time to live.
func after(now, ttl time.Duration) time.Duration {
	if ttl == 0 {
		return 0
	}
	return now + ttl
}

// refresh gives an entry another end. Its deadline stays if it does not come too late.
func (s *Set) refresh(t *Table, p netip.Prefix, v value, expires time.Duration) {
	later := v.expires != 0 && expires >= v.expires
	v.expires = expires
	if later {
		s.replace(t, p, v)
	} else {
		s.insert(t, p, v)
	}
}

// room says whether there is room for more entries, once what has run out is gone.
func (s *Set) room(n int, now time.Duration) bool {
	for s.entries+n > s.limit && s.sweepOne(now) {
	}
	return s.entries+n <= s.limit
}
