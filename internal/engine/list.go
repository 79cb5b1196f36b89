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

// States calls f for every state. It copies one shard at a time and holds its
// lock for no longer; f may take its time.
func (e *Engine) States(now time.Duration, f func(*Listed) error) error {
	var batch []conntrack.State
	for i := range e.table.Shards() {
		batch = e.copyShard(i, batch[:0])
		for j := range batch {
			s := &batch[j]
			if e.pastDue(s, now) && !s.Offloaded {
				continue
			}
			l := Listed{
				State: *s, RuleName: e.ruleOf(s).Name, Age: now - s.Created, Counting: s.Counts(),
				ExpiresIn: max(s.Refreshed+e.lifetime(s)-now, 0),
			}
			if err := f(&l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) copyShard(i int, into []conntrack.State) []conntrack.State {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Each(func(s *conntrack.State) { into = append(into, *s) })
	return into
}

// Len is the number of states.
func (e *Engine) Len() int { return e.table.Len() }

// Sources calls f for every source, with the number of its slots taken.
func (e *Engine) Sources(f func(conntrack.SourceKey, int)) { e.sources.Each(f) }
