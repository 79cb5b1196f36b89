package rules

import (
	"net/netip"
	"slices"

	"nfqfw/internal/packet"
)

// Ruleset is an ordered list of rules.
type Ruleset struct {
	rules []Rule
	from  []addressSet // of each rule
	to    []addressSet
}

// addressSet are Addresses whose tables have been found.
type addressSet struct {
	prefixes Prefixes
	in, out  []Table
}

// New makes a ruleset; it keeps the slice. The tables that rules name are asked for
// once, by name; without one of that name, nil, the name holds no address.
func New(rules []Rule, table func(name string) Table) *Ruleset {
	s := &Ruleset{rules: rules}
	for i := range rules {
		s.from = append(s.from, resolve(&rules[i].From, table))
		s.to = append(s.to, resolve(&rules[i].To, table))
	}
	return s
}

func resolve(a *Addresses, table func(string) Table) addressSet {
	set := addressSet{prefixes: a.Prefixes}
	for _, ref := range a.Tables {
		t := table(ref.Name)
		switch {
		case ref.Negated && t != nil:
			set.out = append(set.out, t)
		case !ref.Negated && t != nil:
			set.in = append(set.in, t)
		case !ref.Negated:
			set.in = append(set.in, nobody{})
		}
	}
	return set
}

// nobody is a table without an address.
type nobody struct{}

// Contains is always false.
func (nobody) Contains(netip.Addr) bool { return false }

func (s *addressSet) contains(a netip.Addr) bool {
	holds := func(t Table) bool { return t.Contains(a) }
	if slices.ContainsFunc(s.out, holds) {
		return false
	}
	if len(s.in) == 0 {
		return s.prefixes.Contains(a)
	}
	in, known := s.prefixes.find(a)
	return in || !known && slices.ContainsFunc(s.in, holds)
}

// Rules are the rules, in order. They are not to be changed.
func (s *Ruleset) Rules() []Rule { return s.rules }

// Match finds the rule for a connection that comes in by an interface, or nil if
// none is.
func (s *Ruleset) Match(in string, t packet.Tuple) *Rule {
	var last *Rule
	for i := range s.rules {
		if !s.matches(i, in, t) {
			continue
		}
		if s.rules[i].Quick {
			return &s.rules[i]
		}
		last = &s.rules[i]
	}
	return last
}

func (s *Ruleset) matches(i int, in string, t packet.Tuple) bool {
	r := &s.rules[i]
	return r.matchesPort(t.DstPort) &&
		(len(r.On) == 0 || slices.Contains(r.On, in)) &&
		s.to[i].contains(t.Dst.Netip()) && s.from[i].contains(t.Src.Netip())
}
