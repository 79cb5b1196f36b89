package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// Snapshot is what another engine has to know to go on in the place of this one, but
// for the states. Nothing is decided between Save and the end of EachSaved.
type Snapshot struct {
	Keys     [2]cookie.Key
	Newer    uint8
	Servers  synproxy.Saved
	Rules    SavedRuleset
	Before   *SavedRuleset // that which Rules took the place of
	Gone     []SavedRule
	Accounts []SavedAccount
	Total    SavedPressure
	Sources  []conntrack.SavedSource
	Counters SavedCounters
	States   int // how many there may be
	SrcNodes int
}

// SavedRuleset is what is decided by, or was.
type SavedRuleset struct {
	Rules      []SavedRule // in their order
	Cookies    synproxy.CookieMode
	Start, End float64
	Since      time.Duration
}

// SavedRule is a rule as it is, or was last.
type SavedRule struct {
	ID        uint32 // in states and sources
	Rule      rules.Rule
	Lifetimes conntrack.Lifetimes
	Since     time.Duration // when it vanished, if it has
}

// SavedAccount is what is counted of a rule.
type SavedAccount struct {
	ID                   uint32
	Evaluations, Created uint64
	Refused, WouldRefuse [packet.ReasonCount]uint64
	Pressure             SavedPressure
}

// SavedPressure is a switch, without the states that count in it.
type SavedPressure struct {
	On             bool
	Since          time.Duration
	Switches       uint64
	Sent, Returned [2]int64 // cookies, of the newer and of the older key
}

// SavedCounters are Counters.
type SavedCounters struct {
	Passed                                             uint64
	Reasons                                            [packet.ReasonCount]uint64
	Evicted, CookiesSent, CookiesValid, CookiesInvalid uint64
}

// SavedState is a state and its place in the counts.
type SavedState struct {
	State            conntrack.State
	Counts, Admitted bool
}

// Save tells what another engine has to know.
func (e *Engine) Save(now time.Duration) *Snapshot {
	set := e.rules.Load()
	s := &Snapshot{
		Servers: e.servers.Save(), Rules: set.save(), Total: e.total.save(), Counters: e.counters.save(),
		States: e.table.Limit(), SrcNodes: e.sources.Limit(),
	}
	s.Keys, s.Newer = e.jar.Keys()
	if set.before != nil {
		before := set.before.save()
		s.Before = &before
	}
	for _, x := range set.byID {
		if x == nil {
			continue
		}
		s.Accounts = append(s.Accounts, x.account.save())
		if x.gone {
			s.Gone = append(s.Gone, x.save())
		}
	}
	e.sources.Save(now, func(source conntrack.SavedSource) { s.Sources = append(s.Sources, source) })
	return s
}

func (s *ruleset) save() SavedRuleset {
	saved := SavedRuleset{Cookies: s.cookies, Start: s.marks.start, End: s.marks.end, Since: s.since}
	for _, x := range s.byNumber {
		saved.Rules = append(saved.Rules, x.save())
	}
	return saved
}

func (x *entry) save() SavedRule {
	return SavedRule{ID: x.id, Rule: *x.Rule, Lifetimes: x.lifetimes, Since: x.since}
}

func (a *account) save() SavedAccount {
	s := SavedAccount{ID: a.id, Evaluations: a.evaluations.Load(), Created: a.created.Load(), Pressure: a.pressure.save()}
	for i := range s.Refused {
		s.Refused[i], s.WouldRefuse[i] = a.refused[i].Load(), a.wouldRefuse[i].Load()
	}
	return s
}

func (s *SavedAccount) account() *account {
	a := &account{id: s.ID}
	a.evaluations.Store(s.Evaluations)
	a.created.Store(s.Created)
	for i := range s.Refused {
		a.refused[i].Store(s.Refused[i])
		a.wouldRefuse[i].Store(s.WouldRefuse[i])
	}
	a.pressure.restore(&s.Pressure)
	return a
}

func (p *pressure) save() SavedPressure {
	s := SavedPressure{On: p.on.Load(), Since: time.Duration(p.since.Load()), Switches: p.switches.Load()}
	for i := range s.Sent {
		s.Sent[i], s.Returned[i] = p.cookies[i].sent.Load(), p.cookies[i].returned.Load()
	}
	return s
}

func (p *pressure) restore(s *SavedPressure) {
	p.on.Store(s.On)
	p.reported = s.On
	p.since.Store(int64(s.Since))
	p.switches.Store(s.Switches)
	for i := range s.Sent {
		p.cookies[i].sent.Store(s.Sent[i])
		p.cookies[i].returned.Store(s.Returned[i])
	}
}

func (c *Counters) save() SavedCounters {
	s := SavedCounters{
		Passed: c.Passed.Load(), Evicted: c.Evicted.Load(),
		CookiesSent: c.CookiesSent.Load(), CookiesValid: c.CookiesValid.Load(), CookiesInvalid: c.CookiesInvalid.Load(),
	}
	for i := range s.Reasons {
		s.Reasons[i] = c.Reasons[i].Load()
	}
	return s
}

func (c *Counters) restore(s *SavedCounters) {
	c.Passed.Store(s.Passed)
	c.Evicted.Store(s.Evicted)
	c.CookiesSent.Store(s.CookiesSent)
	c.CookiesValid.Store(s.CookiesValid)
	c.CookiesInvalid.Store(s.CookiesInvalid)
	for i := range s.Reasons {
		c.Reasons[i].Store(s.Reasons[i])
	}
}

// EachSaved calls f with all states, some at a time. The slice is used again.
func (e *Engine) EachSaved(f func([]SavedState) error) error {
	var part []conntrack.State
	var saved []SavedState
	for i := range e.table.Shards() {
		for place := e.copyPart(i, 0, &part); ; place = e.copyPart(i, place, &part) {
			saved = saved[:0]
			for j := range part {
				saved = append(saved, SavedState{part[j], part[j].Counts(), part[j].Admitted()})
			}
			if len(saved) > 0 {
				if err := f(saved); err != nil {
					return err
				}
			}
			if place == 0 {
				break
			}
		}
	}
	return nil
}

// Resume makes an engine that goes on in the place of the one that was saved, once it
// has its states (RestoreState), and was told that these were all (Resumed). The tables are those that rules name.
func Resume(s *Snapshot, r Seeds, table func(name string) rules.Table) *Engine {
	e := newEngine(s.States, s.SrcNodes, r)
	e.jar = cookie.RestoreJar(s.Keys, s.Newer)
	e.servers.Restore(&s.Servers)
	e.total.restore(&s.Total)
	e.total.capacity.Store(int64(s.States))
	e.counters.restore(&s.Counters)
	accounts := make(map[uint32]*account)
	for i := range s.Accounts {
		accounts[s.Accounts[i].ID] = s.Accounts[i].account()
	}
	set := s.Rules.ruleset(accounts, table)
	for i := range s.Gone {
		x := s.Gone[i].entry(accounts)
		x.gone = true
		set.put(x)
	}
	set.share()
	if s.Before != nil {
		set.before = s.Before.ruleset(accounts, table)
	}
	e.rules.Store(set)
	for _, x := range set.byNumber {
		e.SetBacklog(x.Number, 0)
	}
	for i := range s.Sources {
		e.restoreSource(&s.Sources[i], accounts)
	}
	return e
}

func (s *SavedRuleset) ruleset(accounts map[uint32]*account, table func(string) rules.Table) *ruleset {
	list := make([]rules.Rule, len(s.Rules))
	set := &ruleset{cookies: s.Cookies, marks: marks{s.Start, s.End}, since: s.Since}
	for i := range s.Rules {
		list[i] = s.Rules[i].Rule
		x := s.Rules[i].entry(accounts)
		x.Rule = &list[i]
		set.byNumber = append(set.byNumber, x)
		set.put(x)
	}
	set.match = rules.New(list, table)
	return set
}

func (s *SavedRule) entry(accounts map[uint32]*account) *entry {
	return &entry{
		Rule: &s.Rule, account: accounts[s.ID], lifetimes: s.Lifetimes, since: s.Since,
		limits: limitsOf(&s.Rule, s.Lifetimes.SrcTrack),
	}
}

// put has an entry found by its ID.
func (s *ruleset) put(x *entry) {
	for len(s.byID) < int(x.id) {
		s.byID = append(s.byID, nil)
	}
	s.byID[x.id-1] = x
}

func (e *Engine) restoreSource(saved *conntrack.SavedSource, accounts map[uint32]*account) {
	nodes := &e.nodes
	if saved.Key.Rule != 0 {
		a := accounts[saved.Key.Rule]
		if a == nil {
			return
		}
		nodes = &a.nodes
	}
	e.sources.Restore(saved, nodes)
}

// Resumed says that all states have been restored.
func (e *Engine) Resumed() { e.sources.Restored() }

// RestoreState puts a state of the engine that was saved into the table, and says
// whether there was room.
func (e *Engine) RestoreState(now time.Duration, saved *SavedState) bool {
	s := saved.State
	s.Pressing, s.Known, s.Occupies = false, false, false
	x := e.ruleOf(&s)
	var src *conntrack.Source
	if saved.Admitted {
		src, _ = e.holdSource(now, x, s.Tuple.Src)
	}
	sh := e.table.Lock(s.Tuple)
	placed, err := sh.Restore(&s)
	if err == nil {
		e.place(sh, placed, x, src, saved, now)
	}
	sh.Unlock()
	if err != nil {
		e.table.Drop(src, now)
	}
	return err == nil
}

// place gives a restored state its place in all counts.
func (e *Engine) place(sh *conntrack.Shard, s *conntrack.State, x *entry, src *conntrack.Source, saved *SavedState, now time.Duration) {
	x.seat(s, src, saved.Admitted)
	s.Resume(saved.Counts, saved.Admitted)
	if s.Killed {
		e.killed.Add(1)
	}
	e.countLeaving(s, 1)
	if s.Handshake.Due != 0 && (s.ShakingHands() || s.Killed || s.Handshake.Asking) {
		sh.Wait(s)
	}
	e.press(s, now)
}
