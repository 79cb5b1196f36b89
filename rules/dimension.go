package rules

import (
	"cmp"
	"slices"
)

// dimension is an ordered world in intervals, in each of which the same rules hold.
type dimension struct {
	starts []point // of the intervals, in order, from where the world begins
	sets   []set   // the rules of each
}

// event is a point at which a rule begins to hold or ceases to.
type event struct {
	point
	rule int
}

// divide finds the intervals from the points where each rule begins to hold and
// ceases to.
func (s *sets) divide(rules []Rule, of func(*Rule) toggles) dimension {
	var events []event
	for i := range rules {
		for _, p := range of(&rules[i]) {
			events = append(events, event{p, i})
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(a.compare(b.point), cmp.Compare(a.rule, b.rule)) })
	d := dimension{starts: []point{{}}, sets: []set{0}}
	var here []int
	for i, e := range events {
		here = append(here, e.rule)
		if i+1 == len(events) || events[i+1].point != e.point {
			d.starts = append(d.starts, e.point)
			d.sets = append(d.sets, s.flip(d.sets[len(d.sets)-1], here))
			here = here[:0]
		}
	}
	return d
}

// at is the set of rules that hold at a point.
func (d *dimension) at(p point) set {
	first, after := 0, len(d.starts)
	for after-first > 1 {
		middle := (first + after) / 2
		if d.starts[middle].compare(p) <= 0 {
			first = middle
		} else {
			after = middle
		}
	}
	return d.sets[first]
}
