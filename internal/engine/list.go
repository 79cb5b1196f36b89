package engine

import (
	"slices"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// Listed is a state as a listing shows it: a copy, taken at one moment.
type Listed struct {
	conntrack.State
	RuleName   string
	RuleNumber int  // in the file, from 1
	Gone       bool // the rule has vanished by a reload
	Age        time.Duration
	ExpiresIn  time.Duration
	Counting   bool // it holds a slot of its source
}

// partSize is how many places of a shard are copied under one lock: a packet
// waits some ten microseconds for it.
const partSize = 256

// States calls f for every state. It copies a few at a time and holds a shard's
// lock for no longer; f may take its time. A state that is there throughout is
// listed once; of those that come or go meanwhile each may be listed or not.
func (e *Engine) States(now time.Duration, f func(*Listed) error) error {
	part := make([]conntrack.State, 0, min(partSize, e.table.Len()))
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
	byID := e.rules.Load().byID // while f takes its time, a rule may vanish
	for i := range part {
		s := &part[i]
		x := byID[s.Rule-1]
		expires := s.Refreshed + e.lifetimeBy(x, s)
		if s.Killed || now >= expires && !s.Offloaded {
			continue
		}
		*l = Listed{
			State: *s, RuleName: x.Name, RuleNumber: x.Number, Gone: x.gone, Age: now - s.Created, Counting: s.Counts(),
			ExpiresIn: max(expires-now, 0),
		}
		if err := f(l); err != nil {
			return err
		}
	}
	return nil
}

// Len is the number of states that are listed.
func (e *Engine) Len() int { return e.table.Len() - int(e.killed.Load()) }

// SourceLen is the number of sources, those included that are only remembered.
func (e *Engine) SourceLen() int { return e.sources.Len() }

// ListedSource is a source as a listing shows it.
type ListedSource struct {
	Key       conntrack.SourceKey
	Rule      string // empty: of all rules that track globally
	Conns     int    // connections that count
	States    int    // connections that were admitted and have a state
	Recent    int    // connections admitted in the rate's window
	Rate      rules.Rate
	Age       time.Duration
	ExpiresIn time.Duration // of a source without states
}

// Sources calls f for every source.
func (e *Engine) Sources(now time.Duration, f func(*ListedSource) error) error {
	set := e.rules.Load()
	window := func(k conntrack.SourceKey) time.Duration {
		_, rate := set.sourceRule(k)
		return rate.Window
	}
	return e.sources.Each(now, window, func(s *conntrack.SourceView) error {
		l := ListedSource{
			Key: s.Key, Conns: s.Conns, States: s.States, Recent: s.Recent,
			Age: now - s.Created, ExpiresIn: max(s.Expires-now, 0),
		}
		l.Rule, l.Rate = set.sourceRule(s.Key)
		return f(&l)
	})
}

// sourceRule is the rule that a source counts for, if only one, and the rate that it
// is judged by: if by several, that which looks back farthest.
func (s *ruleset) sourceRule(k conntrack.SourceKey) (name string, rate rules.Rate) {
	if k.Rule > 0 {
		if int(k.Rule) > len(s.byID) || s.byID[k.Rule-1] == nil {
			return "", rate // of a rule that has come since
		}
		x := s.byID[k.Rule-1]
		return x.Name, x.MaxSrcConnRate
	}
	for _, x := range s.byNumber {
		if x.SourceTrack == rules.TrackGlobal && x.MaxSrcConnRate.Window > rate.Window {
			rate = x.MaxSrcConnRate
		}
	}
	return "", rate
}

// ListedRule is a rule as a listing shows it.
type ListedRule struct {
	Rule        *rules.Rule
	Lifetimes   conntrack.Lifetimes
	Gone        bool   // it vanished by a reload, and its states finish
	Evaluations uint64 // packets without a state that it decided about
	Created     uint64 // states, since the start
	States      int
	Nodes       int // sources with states; 0 if it tracks globally
	Refused     [packet.ReasonCount]uint64
	WouldRefuse [packet.ReasonCount]uint64 // with enforce = false
}

// Rules calls f for every rule in order, and then for those that have vanished and
// have states yet.
func (e *Engine) Rules(f func(*ListedRule) error) error {
	s := e.rules.Load()
	list := slices.Clone(s.byNumber)
	for _, x := range s.byID {
		if x != nil && x.gone && x.states.Load() > 0 {
			list = append(list, x)
		}
	}
	for _, x := range list {
		if err := f(x.listed()); err != nil {
			return err
		}
	}
	return nil
}

func (x *entry) listed() *ListedRule {
	l := &ListedRule{
		Rule: x.Rule, Lifetimes: x.lifetimes, Gone: x.gone, Evaluations: x.evaluations.Load(), Created: x.created.Load(),
		States: int(x.states.Load()), Nodes: x.nodes.Len(),
	}
	for i := range l.Refused {
		l.Refused[i], l.WouldRefuse[i] = x.refused[i].Load(), x.wouldRefuse[i].Load()
	}
	return l
}
