package engine

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// answerLife is for how long a service is answered for unless that is put off: some ticks.
const answerLife = 400 * time.Millisecond

// answerPause is for how long, after a service was found that may not be answered for,
// nobody looks at another: a flood is to cost no more than it would without.
const answerPause = 5 * time.Millisecond

// answers are the services for which the kernel answers SYNs with cookies: those for which
// the engine would answer any stranger so.
type answers struct {
	table *syncookie.Table
	ahead time.Duration // by how much the kernel's clock is ahead of the engine's time
	count atomic.Int64  // of those that are answered for
	next  atomic.Int64  // the time before which nobody looks, a time.Duration
	begun atomic.Bool   // there are new ones, of which nobody was told
	last  atomic.Int64  // when one was last known to be answered for, a time.Duration; 0: never

	invalid uint64 // ACKs that repeated no cookie, at the last tick; only Tick's

	mu       sync.Mutex
	off      bool
	services []service // by their place in the table
}

// service is what the kernel was told of one.
type service struct {
	live    bool
	set     *ruleset // under which it was begun
	rule    *entry
	to      packet.Tuple // whose destination it is
	inDev   uint32
	server  packet.Options
	room    uint16        // the largest MSS that the interface has room for; 0: not known
	few     uint32        // states that a source may have
	stamps  bool          // the kernel could translate timestamps
	ended   time.Duration // by when it was answered for last; if not live
	counted uint64        // of the SYNs that were answered at this place
	dropped uint64        // and of the ACKs that were dropped
}

// SetAnswers has the kernel answer SYNs for the engine, whose clock is ahead of the
// engine's time by so much. It is to be called before there is a packet.
func (e *Engine) SetAnswers(t *syncookie.Table, ahead time.Duration) {
	e.answers = &answers{table: t, ahead: ahead, services: make([]service, len(t.Services))}
	t.SetKeys(e.jar.Keys())
	e.tellAll()
}

// tellAll tells the kernel of all states.
func (e *Engine) tellAll() {
	if e.answers == nil {
		return
	}
	for i := range e.table.Shards() {
		e.tellIn(i)
	}
}

// tellIn tells it of those in a shard.
func (e *Engine) tellIn(i int) {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Each(e.tellKernel)
}

// tellKernel tells the kernel of a state, as it is now.
func (e *Engine) tellKernel(s *conntrack.State) {
	if e.answers != nil {
		e.answers.tell(s, !isStranger(s), e.occupies(s))
	}
}

// untell has the kernel forget a state.
func (e *Engine) untell(s *conntrack.State) {
	if e.answers != nil {
		e.answers.tell(s, false, false)
	}
}

// tell has the kernel know, or not, that the tuple of a state has one, and that its source
// has one more of those that limits are about.
func (a *answers) tell(s *conntrack.State, known, occupies bool) {
	if s.Known != known {
		s.Known = known
		a.table.CountTuple(&s.Tuple, difference(known))
	}
	if s.Occupies != occupies {
		s.Occupies = occupies
		a.table.CountSource(&s.Tuple.Src, difference(occupies))
	}
}

// difference is that of one more, or one less.
func difference(more bool) int {
	if more {
		return 1
	}
	return -1
}

// occupies says whether a state is one of those of its source that its rule's limits are
// about.
func (e *Engine) occupies(s *conntrack.State) bool {
	return s.Counts() || s.Admitted() && e.ruleOf(s).limits.States > 0
}

// isStranger says whether nothing is known of the state's client but that somebody has sent
// a SYN in its name, which was answered with a cookie: if it sends another, the answer is as
// good in the kernel as here. A flood makes many such.
func isStranger(s *conntrack.State) bool {
	return s.Src.State == conntrack.ProxySrc && !s.Handshake.Held
}

// Answering says whether the kernel may answer: at first it may. It may not while it does
// not know whom rules and tables name.
func (e *Engine) Answering(now time.Duration, on bool) {
	if e.answers == nil {
		return
	}
	e.answers.mu.Lock()
	e.answers.off = !on
	e.answers.mu.Unlock()
	e.stopAnswers(now)
}

// AnswersOn calls f for the interface of each service that the kernel answers for.
func (e *Engine) AnswersOn(f func(inDev uint32)) {
	e.answers.eachLive(func(_ int, s *service) { f(s.inDev) })
}

// eachLive calls f for each service that the kernel answers for, with its place.
func (a *answers) eachLive(f func(i int, s *service)) {
	if a == nil || a.count.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.services {
		if s := &a.services[i]; s.live {
			f(i, s)
		}
	}
}

// stopAnswers has the kernel answer for no service.
func (e *Engine) stopAnswers(now time.Duration) {
	e.answers.eachLive(func(i int, _ *service) { e.answers.end(i, now) })
}

func (a *answers) end(i int, now time.Duration) {
	a.table.Until(i, 0)
	a.services[i].live, a.services[i].ended = false, now
	a.count.Add(-1)
	a.last.Store(int64(now))
}

// lately says whether a cookie can be out that the kernel has made.
func (a *answers) lately(now time.Duration) bool {
	if a == nil {
		return false
	}
	last := time.Duration(a.last.Load())
	return a.count.Load() > 0 || last > 0 && now < last+cookieLife
}

// letAnswer has the kernel answer other SYNs like this one, which was answered with a
// cookie, if whoever sends one would be answered so.
func (v *visit) letAnswer(server *packet.Options) {
	a := v.answers
	if a == nil || v.p.InDev == 0 || v.now < time.Duration(a.next.Load()) {
		return
	}
	i := a.table.Index(&v.p.Tuple, v.p.InDev)
	if !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	s := &a.services[i]
	next := service{
		live: true, set: v.rules.Load(), rule: v.rule, to: v.p.Tuple, inDev: v.p.InDev, server: *server, room: v.p.InRoom,
		few: v.rule.few(), stamps: v.stamps.Load(), counted: s.counted, dropped: s.dropped,
	}
	same := s.is(&next)
	switch {
	case s.live && same:
		return
	case a.off || s.live || !same && s.set != nil && v.now < s.ended+syncookie.Rest || !v.answersAll(&next):
		a.next.Store(int64(v.now + answerPause))
		return
	}
	if !same {
		told := v.told(&v.p.Tuple, &anything, server, true)
		a.table.Put(i, &v.p.Tuple, v.p.InDev, &told, v.p.InRoom, next.few)
	}
	*s = next
	a.count.Add(1)
	a.table.Until(i, v.now+answerLife+a.ahead)
	a.begun.Store(true)
}

// AnswersBegun says whether there are new services that the kernel answers for since it was
// last asked.
func (e *Engine) AnswersBegun() bool {
	return e.answers != nil && e.answers.begun.Load() && e.answers.begun.Swap(false)
}

// anything are the options of a client that has all of them.
var anything = packet.Options{HasWScale: true, SACKPermitted: true, HasTimestamp: true}

// is says whether the kernel needs to be told nothing else of a service.
func (s *service) is(other *service) bool {
	return s.to.Dst == other.to.Dst && s.to.DstPort == other.to.DstPort && s.inDev == other.inDev &&
		s.server == other.server && s.stamps == other.stamps && s.room == other.room && s.few == other.few
}

// answersAll says whether all strangers are answered for a service like the client of the
// packet, who is one: no rule and no table names it, so that the same rule holds for all who
// are named by none. It tells nobody that a rule that only counts would have refused them.
func (v *visit) answersAll(s *service) bool {
	return v.trial == nil && v.answersOn(s) && !s.set.match.Names(v.p.Src.Netip())
}

// answersOn says whether a service is still one for which strangers are answered.
func (e *Engine) answersOn(s *service) bool {
	x := s.rule
	if s.set != e.rules.Load() || e.draining.Load() || s.stamps != e.stamps.Load() || !e.proxies(x) || e.remembers(x) {
		return false
	}
	if x.Max > 0 && x.admitted.Load()-x.reserved.Load() >= int64(x.Max) || x.limits.Any() && e.nodesOf(x).Full(x.limits.Nodes) {
		return false
	}
	return x.tellsSourcesApart()
}

// few is how many states that limits are about a source may have and surely be within all
// limits of the rule. A rate is of those as well that it has no more.
func (x *entry) few() uint32 {
	l, few := &x.limits, uint32(math.MaxUint32)
	switch {
	case x.CountOnly:
		return few
	case l.Rate.Count > 0:
		return 0
	}
	for _, limit := range []uint32{l.Conns, l.States} {
		if limit > 0 {
			few = min(few, limit-1)
		}
	}
	return few
}

// tellsSourcesApart says whether the rule's sources are none that syncookie takes for one.
func (x *entry) tellsSourcesApart() bool { return x.SourcePrefixV4 == 32 && x.SourcePrefixV6 >= 64 }

// putOffAnswers lets the kernel go on to answer where it may.
func (e *Engine) putOffAnswers(now time.Duration) {
	e.CountAnswers(now)
	a := e.answers
	a.demand(e.counters.CookiesInvalid.Load())
	a.eachLive(func(i int, s *service) {
		if server, known := e.servers.Options(s.to, now); known && server == s.server && e.answersOn(s) {
			a.table.Until(i, now+answerLife+a.ahead)
		} else {
			a.end(i, now)
		}
	})
}

// CountAnswers counts what the kernel has answered, so that all counters have it.
func (e *Engine) CountAnswers(now time.Duration) {
	a := e.answers
	if !a.lately(now) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.services {
		if s := &a.services[i]; s.rule != nil {
			e.countAnswers(s, a.table.Answered(i), now)
			e.countDropped(s, a.table.Dropped(i))
		}
	}
}

// countAnswers counts the cookies of a service as if the engine had made them.
func (e *Engine) countAnswers(s *service, answered uint64, now time.Duration) {
	n := answered - s.counted
	if n == 0 {
		return
	}
	s.counted = answered
	s.rule.evaluations.Add(n)
	e.counters.Reasons[packet.ReasonSynproxy].Add(n)
	e.counters.CookiesInKernel.Add(n)
	e.cookiesSent(s.rule, int64(n), now)
}

// countDropped counts the ACKs of a service that were dropped as if the engine had judged them.
func (e *Engine) countDropped(s *service, dropped uint64) {
	n := dropped - s.dropped
	s.dropped = dropped
	s.rule.evaluations.Add(n)
	e.counters.Reasons[packet.ReasonStateMismatch].Add(n)
	e.counters.CookiesInvalid.Add(n)
}

// From so many ACKs in a tick that repeat no cookie the kernel drops such, and does not ask any
// more, until a tick has few. Below that each is judged, and who sends it is told.
const (
	manyUnproven = 100
	fewUnproven  = 20
)

// demand has the kernel drop ACKs that repeat no cookie, if there were many since the last
// tick: so many were there in all.
func (a *answers) demand(invalid uint64) {
	if a == nil {
		return
	}
	n := invalid - a.invalid
	a.invalid = invalid
	switch {
	case n >= manyUnproven:
		a.table.Demand(true)
	case n < fewUnproven:
		a.table.Demand(false)
	}
}
