package rules

import (
	"slices"

	"nfqfw/internal/packet"
)

// Ruleset is an ordered list of rules, made for finding the one of a connection
// without looking at each.
//
// What rules say of a port, an address or an interface divides the ports, addresses
// and interfaces into intervals in which the same rules hold. Each has the set of
// these rules; a connection's rules are in all the sets of what it is. Tables change,
// and are asked for the rules that are left.
type Ruleset struct {
	rules []Rule
	sets
	ports dimension
	from  [families]dimension
	to    [families]dimension
	on    map[string]set // interfaces that rules name, and "" for none
	noOn  set            // and any other

	quick, slow set       // rules that end the search, and those that do not
	asks        []askings // of each rule
	tables      []Table
}

// askings are what a rule has to ask tables.
type askings struct{ from, to asking }

// New makes a ruleset; it keeps the slice. The tables that rules name are asked for
// once, by name; without one of that name, nil, the name holds no address.
func New(rules []Rule, table func(name string) Table) *Ruleset {
	s := &Ruleset{rules: rules, sets: newSets(len(rules)), asks: make([]askings, len(rules))}
	t := tables{find: table, known: make(map[string]int)}
	for i := range rules {
		s.asks[i] = askings{t.asking(&rules[i].From), t.asking(&rules[i].To)}
	}
	s.tables = t.list
	s.ports = s.divide(rules, func(r *Rule) toggles { return portToggles(r.Ports) })
	for f := range families {
		s.from[f] = s.divide(rules, func(r *Rule) toggles { return r.From.candidates(f) })
		s.to[f] = s.divide(rules, func(r *Rule) toggles { return r.To.candidates(f) })
	}
	s.nameInterfaces()
	s.quick = s.which(func(r *Rule) bool { return r.Quick })
	s.slow = s.which(func(r *Rule) bool { return !r.Quick })
	s.made()
	return s
}

// which is the set of the rules for which is says yes.
func (s *Ruleset) which(is func(*Rule) bool) set {
	var list []int
	for i := range s.rules {
		if is(&s.rules[i]) {
			list = append(list, i)
		}
	}
	return s.flip(0, list)
}

// nameInterfaces makes the sets of interfaces. A rule that says which an interface must
// not be, holds for those that nobody names.
func (s *Ruleset) nameInterfaces() {
	s.noOn = s.which(func(r *Rule) bool { return len(r.On) == 0 })
	naming := make(map[string][]int)
	for i := range s.rules {
		r := &s.rules[i]
		if len(r.NotOn) > 0 {
			naming[""] = append(naming[""], i) // what this machine begins comes in by none
		}
		for _, name := range slices.Concat(r.On, r.NotOn) {
			if list := naming[name]; len(list) == 0 || list[len(list)-1] != i {
				naming[name] = append(list, i)
			}
		}
	}
	s.on = make(map[string]set, len(naming))
	for name, list := range naming {
		s.on[name] = s.flip(s.noOn, list)
	}
}

// Rules are the rules, in order. They are not to be changed.
func (s *Ruleset) Rules() []Rule { return s.rules }

// Match finds the rule for a connection that comes in by an interface, or nil if
// none is.
func (s *Ruleset) Match(in string, t packet.Tuple) *Rule {
	return s.match(in, t, func(*Rule) bool { return true })
}

// MatchEnforced does so without the block rules that only count: what it finds is what
// becomes of the connection.
func (s *Ruleset) MatchEnforced(in string, t packet.Tuple) *Rule {
	return s.match(in, t, func(r *Rule) bool { return !r.OnlyCountsBlocks() })
}

// match finds the rule among those that are asked.
func (s *Ruleset) match(in string, t packet.Tuple, asked func(*Rule) bool) *Rule {
	src, dst := newEnd(t.Src), newEnd(t.Dst)
	on, named := s.on[in]
	if !named {
		on = s.noOn
	}
	m := meet{s.to[dst.family].at(dst.point), s.from[src.family].at(src.point), s.ports.at(portPoint(t.DstPort)), on, s.quick}
	holds := func(i int) bool {
		a := &s.asks[i]
		return asked(&s.rules[i]) && a.to.holds(&dst, s.tables) && a.from.holds(&src, s.tables)
	}
	i := -1
	if s.quick != 0 {
		i = s.first(m, false, holds)
	}
	if i < 0 {
		m[len(m)-1] = s.slow
		i = s.first(m, true, holds)
	}
	if i < 0 {
		return nil
	}
	return &s.rules[i]
}
