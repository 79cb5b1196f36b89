package conntrack

import (
	"errors"
	"fmt"
)

// tally is what the states of a source come to, and what is reserved.
type tally struct{ refs, slots, states, reserved int }

// Reserver is who else holds a source, and keeps places there.
type Reserver struct {
	Source *Source
	Places int
}

// Recount holds all that is counted against a slow count of the states, for tests of
// what may happen to a table: that of states, those of sources, and those of sources
// counted together, which are handed in. Nothing else may go on meanwhile, and nobody
// holds a source but states and the reservers.
func (t *Table) Recount(reservers []Reserver, nodes ...*Nodes) error {
	tallies := make(map[*Source]tally)
	for _, r := range reservers {
		y := tallies[r.Source]
		y.refs++
		y.reserved += r.Places
		tallies[r.Source] = y
	}
	errs := []error{t.recountStates(tallies)}
	errs = append(errs, t.sources.recount(tallies, nodes)...)
	for s := range tallies {
		errs = append(errs, fmt.Errorf("source %v: has states, and is not known", s.Key))
	}
	return errors.Join(errs...)
}

func (t *Table) recountStates(tallies map[*Source]tally) error {
	var errs []error
	count := 0
	for i := range t.shards {
		sh := t.LockShard(i)
		count += sh.index.count
		sh.Each(func(s *State) {
			if found, d := sh.Find(s.Tuple); found != s || d != Original {
				errs = append(errs, fmt.Errorf("state %v: is not found", s.Tuple))
			}
			s.tallyIn(tallies)
		})
		if places := sh.places() - len(sh.free); places != sh.index.count {
			errs = append(errs, fmt.Errorf("shard %d: %d places for %d states", i, places, sh.index.count))
		}
		sh.Unlock()
	}
	if n := t.Len(); n != count {
		errs = append(errs, fmt.Errorf("table: %d states are counted, %d are there", n, count))
	}
	return errors.Join(errs...)
}

func (s *State) tallyIn(tallies map[*Source]tally) {
	if s.source == nil {
		return
	}
	y := tallies[s.source]
	y.refs++
	if s.slot {
		y.slots++
	}
	if s.admitted {
		y.states++
	}
	tallies[s.source] = y
}

// recount takes the sources that it knows out of tallies.
func (t *Sources) recount(tallies map[*Source]tally, nodes []*Nodes) (errs []error) {
	held, known := make(map[*Nodes]int), make(map[*Nodes]int)
	count := 0
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for k, s := range sh.sources {
			if got, want := (tally{s.refs, s.slots, s.states, s.reserved}), tallies[s]; got != want || s.Key != k {
				errs = append(errs, fmt.Errorf("source %v at %v: %+v are counted, its states are %+v", s.Key, k, got, want))
			}
			delete(tallies, s)
			count++
			known[s.nodes]++
			if s.refs > 0 {
				held[s.nodes]++
			}
		}
		sh.mu.Unlock()
	}
	if n := t.Len(); n != count {
		errs = append(errs, fmt.Errorf("sources: %d are counted, %d are there", n, count))
	}
	for i, n := range nodes {
		if n.Len() != held[n] || n.Known() != known[n] {
			errs = append(errs, fmt.Errorf("sources counted together, set %d: %d and %d are counted, %d have states and %d are known",
				i, n.Len(), n.Known(), held[n], known[n]))
		}
		delete(known, n)
	}
	if len(known) > 0 {
		errs = append(errs, fmt.Errorf("sources: %d are of a set that is none", len(known)))
	}
	return errs
}
