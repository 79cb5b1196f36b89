package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// maxGrant is how many connections of one client and server the kernel may open, or admit,
// before the engine takes note of the first.
const maxGrant = 64

// grants are what the kernel may let pass without asking. Its lock is waited for under any
// other but a source's own, which alone is taken under it.
type grants struct {
	mu      sync.Mutex
	table   *grant.Table
	given   []given             // of each slot
	late    map[grant.ID]given  // what was taken back, and had been used before that was told
	until   []time.Duration     // before that nothing is given in a slot
	since   time.Duration       // when all was last taken back
	count   atomic.Int64        // of what is given
	dropped []*conntrack.Source // that are not held for a grant any more, for dropSources
	drops   atomic.Bool         // there are some
	sweep   int                 // the slot that Tick looks at next
}

// given is what one grant is made of: places that are reserved in the rule and in the
// client's source.
type given struct {
	rule   *account
	source *conntrack.Source // held for it; nil: the rule has no limits for sources
	places int               // reserved, for what is left and for what was used but not yet told
	used   bool              // since Tick has last looked
}

func newGrants(t *grant.Table) *grants {
	g := &grants{
		table: t, given: make([]given, grant.Slots), until: make([]time.Duration, grant.Slots), late: make(map[grant.ID]given),
	}
	for i := range g.given {
		t.Take(i) // the memory may have some from before
	}
	return g
}

// SetGrants has the engine grant connections in memory that the kernel reads. It is to be
// called before there is a packet.
func (e *Engine) SetGrants(t *grant.Table) { e.grants = newGrants(t) }

// Grants says whether something is granted now.
func (e *Engine) Grants() bool { return e.grants != nil && e.grants.count.Load() > 0 }

// Withdraw takes back what the kernel may let pass without asking. It is to be called
// after what decides about a SYN has changed: the rules, a table, or what interfaces
// there are.
func (e *Engine) Withdraw(now time.Duration) {
	g := e.grants
	if g == nil {
		return
	}
	g.mu.Lock()
	g.takeAll(now)
	g.mu.Unlock()
	e.dropSources(now)
}

// dropSources lets go of sources, which is done with no lock held.
func (e *Engine) dropSources(now time.Duration) {
	g := e.grants
	g.mu.Lock()
	list := g.dropped
	g.dropped = nil
	g.drops.Store(false)
	g.mu.Unlock()
	for _, s := range list {
		e.table.Drop(s, now)
	}
}

// takeAll takes back everything.
func (g *grants) takeAll(now time.Duration) {
	g.since = now
	if g.count.Load() > 0 {
		g.takeIf(func(*given) bool { return true })
	}
}

// takeIf takes back those for which is says true.
func (g *grants) takeIf(is func(*given) bool) {
	for i := range g.given {
		if x := &g.given[i]; x.rule != nil && is(x) {
			g.take(i)
		}
	}
}

// take takes a grant back. What has been used of it is told of yet.
func (g *grants) take(i int) {
	x, id := g.given[i], g.table.ID(i)
	g.given[i] = given{}
	g.count.Add(-1)
	x.unreserve(g.table.Take(i))
	if x.places > 0 {
		g.late[id] = x
	} else {
		g.drop(x.source)
	}
}

func (g *grants) drop(s *conntrack.Source) {
	if s != nil {
		g.dropped = append(g.dropped, s)
		g.drops.Store(true)
	}
}

// unreserve gives n places back.
func (x *given) unreserve(n int) {
	x.places -= n
	x.rule.unreserve(n)
	if x.source != nil {
		x.source.Unreserve(n)
	}
}

func (a *account) unreserve(n int) {
	a.reserved.Add(-int64(n))
	a.admitted.Add(-int64(n))
}

// reserve keeps places in a rule for up to n connections more, and says for how many.
func (x *entry) reserve(n int) int {
	a := x.account
	if x.Max > 0 {
		n = max(min(n, (int(x.Max)-int(a.admitted.Load()))/2), 0)
	}
	if m := a.admitted.Add(int64(n)); x.Max > 0 && m > int64(x.Max) {
		a.admitted.Add(-int64(n)) // another took them first
		return 0
	}
	a.reserved.Add(int64(n))
	return n
}

// grant lets the kernel pass, and admit, the next connections of a client of which one has
// just been admitted. While connections are being ended it does not: a SYN may be of one of
// them. Nor does it for a rule that only counts, which tells whom it would refuse. Where
// another is at work on grants there is none this time.
func (v *visit) grant() {
	s, g := v.state, v.grants
	if g == nil || s.Proxied || s.Adopted || !s.Answered || s.InDev == 0 || v.leaving.Load() > 0 || !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	x, i := v.stateRule(), g.table.Index(&s.Tuple)
	if x.State == rules.Synproxy || x.CountOnly || s.Created <= g.since || v.now < g.until[i] {
		return
	}
	syns := v.grantable(x)
	had := &g.given[i]
	if !g.table.Has(i, &s.Tuple, s.InDev, s.ReplyDev) || had.rule != x.account {
		if syns == 0 || !v.begin(g, i, x) {
			return
		}
	}
	g.table.SetSYNs(i, int32(syns))
	had.used = true
	if left := g.table.Left(i); left <= syns/2 {
		v.give(g, i, x, syns-left)
	}
}

// begin makes the slot that of the state's client and server, and says whether it did.
func (v *visit) begin(g *grants, i int, x *entry) bool {
	s := v.state
	var source *conntrack.Source
	if x.limits.Any() {
		source = v.sources.TryAcquire(x.sourceKey(s.Tuple.Src), v.nodesOf(x), &x.limits, v.now)
		if source == nil {
			return false
		}
	}
	if g.given[i].rule != nil {
		g.take(i)
	}
	g.table.Put(i, &s.Tuple, s.InDev, s.ReplyDev)
	g.given[i] = given{rule: x.account, source: source}
	g.count.Add(1)
	return true
}

// give reserves places for up to n connections more, and grants them.
func (v *visit) give(g *grants, i int, x *entry, n int) {
	n = x.reserve(n)
	had := &g.given[i]
	if had.source != nil {
		kept := had.source.Reserve(&x.limits, v.now, n)
		x.unreserve(n - kept)
		n = kept
	}
	had.places += n
	g.table.Admit(i, n)
}

// grantable is how many SYNs the client may be granted: half of those that no limit would
// refuse, for others may come from the same source.
func (v *visit) grantable(x *entry) int {
	n := (v.table.Limit() - v.table.Len()) / 4
	if src := v.state.Source(); src != nil {
		n = min(n, src.Room(&x.limits, v.now)/2)
	}
	if x.Max > 0 {
		n = min(n, (int(x.Max)-int(x.admitted.Load()))/2)
	}
	if x.State == rules.Adaptive {
		n = min(n, v.slack(&x.pressure), v.slack(&v.total))
	}
	return max(min(n, maxGrant), 0)
}

// slack is half of what may be half-open more before the SYN proxy takes over. It is none
// until nothing is left of when it last did: a client that it has answered may yet send its
// SYN again.
func (v *visit) slack(p *pressure) int {
	if p.on.Load() || p.switches.Load() > 0 && v.now < p.lastSwitch()+cookieLife {
		return 0
	}
	return int(p.mark(v.rules.Load().marks.start)-p.halfOpen()) / 2
}

// noGrant is for a SYN that the SYN proxy answers under a rule that keeps state for others.
// If it is for what the SYN says, its client is granted nothing for as long as its handshake
// may take: it sends its SYN again without that. Else there is pressure.
func (v *visit) noGrant() {
	g := v.grants
	if g == nil || v.rule.State == rules.Synproxy {
		return
	}
	fast := v.p.OpensFast()
	if !fast && g.count.Load() == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !fast {
		g.takeAll(v.now)
		return
	}
	i := g.table.Index(&v.p.Tuple)
	g.until[i] = max(g.until[i], v.now+cookieLife)
	if g.given[i].rule != nil {
		g.take(i)
	}
}

// recall takes back what is granted at the cost of a rule or a source, and says whether
// there was anything: before somebody is refused for want of places.
func (v *visit) recall(x *entry, source *conntrack.Source) bool {
	g := v.grants
	if g == nil || x.reserved.Load() == 0 && (source == nil || source.Reserved() == 0) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := false
	g.takeIf(func(y *given) bool {
		is := y.places > 0 && (y.rule == x.account || source != nil && y.source == source)
		taken = taken || is
		return is
	})
	return taken
}

// awaitsNote says whether a limit would be passed for places that are reserved: the kernel
// may have given one of them to this connection, by a packet behind this one.
func (v *visit) awaitsNote(x *entry) bool {
	if v.grants == nil || v.p.Noted || x.CountOnly {
		return false
	}
	if x.Max > 0 && x.reserved.Load() > 0 && x.admitted.Load() >= int64(x.Max) {
		return true
	}
	source := v.state.Source()
	return source != nil && source.Reserved() > 0 && source.Room(&x.limits, v.now) == 0
}

// sweepGrants takes back those that nobody has used for a while.
func (e *Engine) sweepGrants(now time.Duration) {
	g := e.grants
	if !e.Grants() {
		return
	}
	g.mu.Lock()
	for range grant.Slots / sweepParts {
		i := g.sweep
		g.sweep = (i + 1) % grant.Slots
		switch x := &g.given[i]; {
		case x.rule == nil:
		case x.used:
			x.used = false
		default:
			g.take(i)
		}
	}
	g.mu.Unlock()
	e.dropSources(now)
}

// redeem is what the kernel tells that it has admitted a connection by: one of the places
// is the caller's now.
func (g *grants) redeem(id grant.ID) (rule *account, source *conntrack.Source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x, late := g.late[id]
	switch {
	case late:
		if x.places--; x.places > 0 {
			g.late[id] = x
		} else {
			delete(g.late, id)
			g.drop(x.source)
		}
		return x.rule, x.source
	case g.table.ID(int(id.Slot)) != id || g.given[id.Slot].places == 0:
		return nil, nil // of another engine, from before this one
	}
	had := &g.given[id.Slot]
	had.places--
	had.used = true
	return had.rule, had.source
}

// observeAdmitted takes note of an ACK that the kernel has let pass as the last of a
// handshake: its connection is admitted, by a place that was reserved for it.
func (v *visit) observeAdmitted() {
	if v.state == nil || v.state.Closed() {
		if !v.admittedAnew() {
			v.redeem()
			return
		}
	}
	x := v.stateRule()
	if v.state.Killed || v.state.Admitted() || v.state.ShakingHands() {
		v.redeem()
		return
	}
	if x.limits.Any() && !v.state.Bound() && v.tryBind(x) == postponed {
		return
	}
	v.takePlace(x)
	v.counters.InKernel.Add(1)
	if v.state.Opening() && !v.state.Establishes(v.dir, v.p) {
		v.state.Src.State, v.state.Dst.State = conntrack.Established, conntrack.Established
	}
	v.state.Offloaded = true
	v.advance()
	v.press(v.state, v.now)
	v.grant()
}

// takePlace admits the state by the place that the packet was admitted by, so that at no
// time it is free.
func (v *visit) takePlace(x *entry) {
	rule, source := v.grants.redeem(v.grantID())
	if rule == x.account {
		rule.reserved.Add(-1)
	} else {
		x.enter(x.Max, true)
	}
	if source != nil && source == v.state.Source() {
		v.state.AdmitReserved(&x.limits, v.now)
		source = nil
	} else {
		v.state.Admit(&x.limits, v.now, true)
	}
	if rule != x.account {
		giveBack(rule, nil)
	}
	giveBack(nil, source)
}

// redeem gives back the place by which the packet was admitted.
func (v *visit) redeem() { giveBack(v.grants.redeem(v.grantID())) }

func (v *visit) grantID() grant.ID { return grant.ID{Slot: v.p.Grant[0], Generation: v.p.Grant[1]} }

// giveBack gives a place back that was reserved.
func giveBack(rule *account, source *conntrack.Source) {
	if rule != nil {
		rule.unreserve(1)
	}
	if source != nil {
		source.Unreserve(1)
	}
}

// admittedAnew begins a state for a connection that was admitted and is not known: its
// state had to make room, or the engine is another one.
func (v *visit) admittedAnew() bool {
	v.rule, v.trial = v.rules.Load().find(v.p)
	if v.rule == nil || v.rule.Action == rules.Block {
		return false
	}
	if v.state != nil {
		v.dropLater(v.forget(v.shard, v.state))
		v.state = nil
	}
	var s conntrack.State
	s.Begin(v.p, v.now)
	s.Src.State, s.Dst.State, s.Adopted = conntrack.Established, conntrack.Established, true
	return v.insert(&s)
}

// observeOpening takes note of a SYN or SYN+ACK that has passed because it was granted. If
// it is not what the engine would have let pass, the ACK that follows will not be either.
func (v *visit) observeOpening() {
	if v.p.IsSYN() && v.begins() {
		return
	}
	s := v.state
	if s == nil || !s.Opening() || s.ShakingHands() || s.Forged(v.dir, v.p) || v.answersUs() || !s.Fits(v.dir, v.p) {
		return
	}
	v.advance()
	v.press(s, v.now)
}

// begins begins a state for a SYN that has passed, and says whether it did: not if the
// state has sent it before. The kernel has begun an entry: what there was before is over,
// and its state is no reason to change that of the new one.
func (v *visit) begins() bool {
	if v.trial != nil {
		v.note(v.trial, Refusal{Reason: packet.ReasonBlock})
	}
	if v.state != nil && (v.expired() || v.replaces()) {
		v.dropLater(v.forget(v.shard, v.state))
		v.state = nil
	}
	if v.state != nil || v.rule == nil || v.rule.Action == rules.Block {
		return false
	}
	var s conntrack.State
	s.Begin(v.p, v.now)
	if v.insert(&s) {
		v.press(v.state, v.now)
	}
	return true
}
