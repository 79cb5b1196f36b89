package engine

import (
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// ruleset is what is decided by. It never changes: a reload makes another.
type ruleset struct {
	match    *rules.Ruleset
	byNumber []*entry // of each rule of match
	byID     []*entry // at ID-1; nil: of no rule
	cookies  synproxy.CookieMode
	marks    marks
	before   *ruleset      // what it took the place of, whose cookies may come back; that one has none of its own
	since    time.Duration // when it did
}

// entry is a rule as it is at one time.
type entry struct {
	*rules.Rule
	*account
	lifetimes conntrack.Lifetimes
	limits    conntrack.Limits
	gone      bool          // it vanished by a reload; its states finish
	since     time.Duration // when it did
}

// account is what is counted of a rule. It lives on when the rule changes.
type account struct {
	id          uint32 // of the rule in states and sources: 1 or more
	evaluations atomic.Uint64
	created     atomic.Uint64 // states
	states      atomic.Int64  // in the table
	admitted    atomic.Int64  // of these, those that were admitted; and places that are reserved,
	reserved    atomic.Int64  // of which there are so many
	leaving     atomic.Int64  // of these, those that have to go
	nodes       conntrack.Nodes
	pressure    pressure
	refused     [packet.ReasonCount]atomic.Uint64
	wouldRefuse [packet.ReasonCount]atomic.Uint64 // with CountOnly
}

// enter counts one state more that is admitted. It says whether there are as many as
// the rule may have; if so, it counts by force only.
func (a *account) enter(limit uint32, force bool) (full bool) {
	if n := a.admitted.Add(1); limit == 0 || n <= int64(limit) {
		return false
	}
	if !force {
		a.admitted.Add(-1)
	}
	return true
}

// Config is what an engine is made of, and what a reload changes.
type Config struct {
	Ruleset  *rules.Ruleset
	Timeouts []conntrack.Lifetimes // of each rule, in the ruleset's order
	States   int                   // how many states there may be
	SrcNodes int                   // how many sources may be tracked
	Cookies  synproxy.CookieMode   // when to keep no state before a client has proved itself
	Start    float64               // the share of half-open states above which what is adaptive proxies, or bakes cookies
	End      float64               // and under which no more: less than Start
}

// idGrace is for how long the ID of a rule that vanished is given to no other, though
// no state has it: a packet that was looked at meanwhile may make one yet.
const idGrace = time.Minute

// Reload changes what is decided by from now on. States, counts and rates live on
// with the rule of the same name, whatever became of it; those of a rule that vanished
// go on under what it last said. Only one goroutine calls it.
func (e *Engine) Reload(now time.Duration, c Config) {
	old := e.rules.Load()
	next := &ruleset{match: c.Ruleset, cookies: c.Cookies, marks: marks{c.Start, c.End}, before: old.alone(), since: now}
	live := make(map[string]*entry)
	for _, x := range old.byID {
		if x.vanishes(now) {
			next.byID = append(next.byID, x.asGone(now))
			live[x.Name] = x
		} else {
			next.byID = append(next.byID, nil)
		}
	}
	list := c.Ruleset.Rules()
	for i := range list {
		x := &entry{Rule: &list[i], lifetimes: c.Timeouts[i], limits: limitsOf(&list[i], c.Timeouts[i].SrcTrack)}
		if was := live[x.Name]; was != nil {
			x.account = was.account
		} else {
			x.account = next.newAccount()
		}
		next.byID[x.id-1] = x
		next.byNumber = append(next.byNumber, x)
	}
	next.share()
	e.table.SetLimit(c.States)
	e.sources.SetLimit(c.SrcNodes)
	e.total.capacity.Store(int64(c.States))
	e.rules.Store(next)
	e.tellAll() // what limits are about may be others now
	for _, x := range next.byNumber {
		e.SetBacklog(x.Number, 0)
	}
}

// alone is the ruleset without the one before it.
func (s *ruleset) alone() *ruleset {
	after := *s
	after.before = nil
	return &after
}

// vanishes says whether the entry is to be kept though no rule of its name follows.
func (x *entry) vanishes(now time.Duration) bool {
	return x != nil && (!x.gone || now < x.since+idGrace || x.states.Load() > 0 || x.nodes.Known() > 0)
}

func (x *entry) asGone(now time.Duration) *entry {
	after := *x
	if !x.gone {
		after.gone, after.since = true, now
	}
	return &after
}

// share has the rules that track globally count their sources for each other: what one
// admits is held against the limits of all, and remembered as their rates need it.
func (s *ruleset) share() {
	var all conntrack.Limits
	global := func(do func(*conntrack.Limits)) {
		for _, x := range s.byID {
			if x != nil && x.SourceTrack == rules.TrackGlobal {
				do(&x.limits)
			}
		}
	}
	global(func(l *conntrack.Limits) {
		all.Shared = all.Shared || l.Bounds()
		all.Keep, all.Track = max(all.Keep, l.Rate.Count), max(all.Track, l.Track, l.Rate.Window)
	})
	global(func(l *conntrack.Limits) { l.Shared, l.Keep, l.Track = all.Shared, all.Keep, all.Track })
}

// newAccount takes the first ID that is free.
func (s *ruleset) newAccount() *account {
	for i, x := range s.byID {
		if x == nil {
			return &account{id: uint32(i + 1)}
		}
	}
	s.byID = append(s.byID, nil)
	return &account{id: uint32(len(s.byID))}
}

// limitsOf are a rule's limits for its sources.
func limitsOf(r *rules.Rule, track time.Duration) conntrack.Limits {
	return conntrack.Limits{
		Conns: r.MaxSrcConn, States: r.MaxSrcStates, Rate: conntrack.Rate(r.MaxSrcConnRate), Nodes: r.MaxSrcNodes,
		Track: track,
	}
}

// find is the rule for a connection, or nil, and a block rule that only counts in its
// place, or nil. It counts that they were asked.
func (s *ruleset) find(p *packet.Packet) (x, trial *entry) {
	x = s.entryOf(s.match.Match(p.InName, p.Tuple))
	if x != nil && x.OnlyCountsBlocks() {
		x.evaluations.Add(1)
		x, trial = s.enforced(p), x
	}
	if x != nil {
		x.evaluations.Add(1)
	}
	return x, trial
}

// enforced is the rule for a connection, or nil.
func (s *ruleset) enforced(p *packet.Packet) *entry {
	return s.entryOf(s.match.MatchEnforced(p.InName, p.Tuple))
}

func (s *ruleset) entryOf(r *rules.Rule) *entry {
	if r == nil {
		return nil
	}
	return s.byNumber[r.Number-1]
}

// ruleOf is the rule that made a state, as it is now. The state's shard is locked, or
// the state was copied: so the ruleset is one that knows it.
func (e *Engine) ruleOf(s *conntrack.State) *entry { return e.rules.Load().byID[s.Rule-1] }

// nodesOf are the sources that one of the rule's is counted with.
func (e *Engine) nodesOf(x *entry) *conntrack.Nodes {
	if x.SourceTrack == rules.TrackGlobal {
		return &e.nodes
	}
	return &x.nodes
}

// sourceKey is what a client counts under.
func (x *entry) sourceKey(client packet.Addr) conntrack.SourceKey {
	k := conntrack.SourceKey{Prefix: x.Source(client)}
	if x.SourceTrack == rules.TrackRule {
		k.Rule = x.id
	}
	return k
}
