package engine

import (
	"time"

	"nfqfw/conntrack"
)

// Listed is a state as a listing shows it: a copy, taken at one moment.
type Listed struct {
	conntrack.State
	RuleName  string
	Age       time.Duration
	ExpiresIn time.Duration
	Counting  bool // it holds a slot of its source
}

// partSize is how many places of a shard are copied under one lock: a packet
// waits some ten microseconds for it.
const partSize = 256

// States calls f for every state. It copies a few at a time and holds a shard's
// lock for no longer; f may take its time. A state that is there throughout is
// listed once; of those that come or go meanwhile each may be listed or not.
func (e *Engine) States(now time.Duration, f func(*Listed) error) error {
	part := make([]conntrack.State, 0, partSize)
	var l Listed // for all of them: a million need no more memory
	for i := range e.table.Shards() {
		for place := e.copyPart(i, 0, &part); ; place = e.copyPart(i, place, &part) {
			if err := e.list(part, now, &l, f); err != nil {
				return err
			}
			if place == 0 {
				break
			}
		}
	}
	return nil
}

// copyPart copies the states of the next places of a shard, and returns the
// place to go on from, as Part does.
func (e *Engine) copyPart(shard, place int, into *[]conntrack.State) (next int) {
	*into = (*into)[:0]
	sh := e.table.LockShard(shard)
	defer sh.Unlock()
	return sh.Part(place, partSize, func(s *conntrack.State) { *into = append(*into, *s) })
}

func (e *Engine) list(part []conntrack.State, now time.Duration, l *Listed, f func(*Listed) error) error {
	for i := range part {
		s := &part[i]
		if e.pastDue(s, now) && !s.Offloaded {
			continue
		}
		*l = Listed{
			State: *s, RuleName: e.ruleOf(s).Name, Age: now - s.Created, Counting: s.Counts(),
			ExpiresIn: max(s.Refreshed+e.lifetime(s)-now, 0),
		}
		if err := f(l); err != nil {
			return err
		}
	}
	return nil
}

// Len is the number of states.
func (e *Engine) Len() int { return e.table.Len() }

// Sources calls f for every source, with the number of its slots taken.
func (e *Engine) Sources(f func(conntrack.SourceKey, int)) { e.sources.Each(f) }
