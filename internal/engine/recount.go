package engine

import (
	"errors"
	"fmt"

	"nfqfw/conntrack"
)

// recounted is what the states of a rule come to, or of all.
type recounted struct{ states, admitted, halfOpen, killed, leaving int }

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (r *recounted) add(s *conntrack.State) {
	r.states++
	r.admitted += one(s.Admitted())
	r.halfOpen += one(s.HalfOpen())
	r.killed += one(s.Killed)
	r.leaving += one(s.Leaving())
}

// Recount holds all that the engine counts of states, sources and rules against a slow
// count of its table, for tests of whatever may happen. Nothing else may go on
// meanwhile.
func (e *Engine) Recount() error {
	set := e.rules.Load()
	nodes := []*conntrack.Nodes{&e.nodes}
	for _, x := range set.byID {
		if x != nil {
			nodes = append(nodes, &x.nodes)
		}
	}
	reservers, reserved := e.grants.recount()
	return errors.Join(e.table.Recount(reservers, nodes...), e.recountRules(set, reserved), e.recountTold())
}

// recountTold holds what the kernel is told of states to what they are, or were: it may be
// told more than there is, but not less.
func (e *Engine) recountTold() error {
	if e.answers == nil {
		return nil
	}
	var known, occupying, missed int
	for i := range e.table.Shards() {
		sh := e.table.LockShard(i)
		sh.Each(func(s *conntrack.State) {
			known += one(s.Known)
			occupying += one(s.Occupies)
			missed += one(!isStranger(s) && !s.Known || e.occupies(s) && !s.Occupies)
		})
		sh.Unlock()
	}
	tuples, sources := e.answers.table.Counts()
	if tuples != known || sources != occupying || missed > 0 {
		return fmt.Errorf("the kernel is told of %d states, %d of them occupying a place, and counts %d and %d; it is not told of %d", known, occupying, tuples, sources, missed)
	}
	return nil
}

// recount is what is granted: who holds sources for it, and what it costs each rule.
func (g *grants) recount() (list []conntrack.Reserver, reserved map[*account]int) {
	reserved = make(map[*account]int)
	if g == nil {
		return nil, reserved
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	add := func(x given) {
		reserved[x.rule] += x.places
		if x.source != nil {
			list = append(list, conntrack.Reserver{Source: x.source, Places: x.places})
		}
	}
	for _, x := range g.given {
		if x.rule != nil {
			add(x)
		}
	}
	for _, x := range g.late {
		add(x)
	}
	return list, reserved
}

func (e *Engine) recountRules(set *ruleset, reserved map[*account]int) error {
	var errs []error
	var all recounted
	byID := make([]recounted, len(set.byID))
	for i := range e.table.Shards() {
		sh := e.table.LockShard(i)
		sh.Each(func(s *conntrack.State) {
			all.add(s)
			byID[s.Rule-1].add(s)
		})
		sh.Unlock()
	}
	if n := e.killed.Load(); int(n) != all.killed {
		errs = append(errs, fmt.Errorf("%d killed states are counted, %d are there", n, all.killed))
	}
	if n := e.leaving.Load(); int(n) != all.leaving {
		errs = append(errs, fmt.Errorf("%d states that have to go are counted, %d are there", n, all.leaving))
	}
	if n := e.total.states.Load(); int(n) != all.halfOpen {
		errs = append(errs, fmt.Errorf("%d half-open states are counted, %d are there", n, all.halfOpen))
	}
	for i, x := range set.byID {
		n := 0
		if x != nil {
			n = reserved[x.account]
		}
		errs = append(errs, x.recount(byID[i], n))
	}
	return errors.Join(errs...)
}

// recount holds what is counted of a rule against its states, and the places that are
// reserved. Without a rule, nil, there are none.
func (x *entry) recount(found recounted, reserved int) error {
	if x == nil && found.states > 0 {
		return fmt.Errorf("%d states are of a rule that is none", found.states)
	}
	if x == nil {
		return nil
	}
	if n := int(x.reserved.Load()); n != reserved {
		return fmt.Errorf("rule %s: %d places are counted as reserved, %d are", x.Name, n, reserved)
	}
	counted := recounted{
		int(x.states.Load()), int(x.admitted.Load()) - reserved, int(x.pressure.states.Load()), found.killed, int(x.leaving.Load()),
	}
	if counted != found {
		return fmt.Errorf("rule %s: %+v are counted, its states are %+v", x.Name, counted, found)
	}
	return nil
}
