package engine

import (
	"math"
	"time"

	"nfqfw/conntrack"
	"nfqfw/rules"
)

// maxGrant is how many connections of one client and server the kernel may open, or admit,
// before the engine takes note of the first.
const maxGrant = 256

// room is how many connections more the rule may have.
func (x *entry) room() int {
	if x.Max == 0 {
		return math.MaxInt
	}
	return max(int(x.Max)-int(x.admitted.Load()), 0)
}

// reserve keeps places in a rule for up to n connections more, and says for how many.
func (x *entry) reserve(n int) int {
	a := x.account
	n = min(n, x.room()/2)
	if m := a.admitted.Add(int64(n)); x.Max > 0 && m > int64(x.Max) {
		a.admitted.Add(-int64(n)) // another took them first
		return 0
	}
	a.reserved.Add(int64(n))
	return n
}

// grant lets the kernel pass, and admit, the next connections of a client of which one has
// just been admitted. While connections are being ended it does not: a SYN may be of one of
// them. Where another is at work on grants there is none this time.
func (v *visit) grant() {
	s, g := v.state, v.grants
	if g == nil || s.Proxied || s.Adopted || !s.Answered || s.InDev == 0 || v.leaving.Load() > 0 || !g.mu.TryLock() {
		return
	}
	defer g.mu.Unlock()
	x, i := v.stateRule(), g.table.Index(&s.Tuple)
	if g.off || !x.mayGrant() || s.Created <= g.since || v.now < g.until[i] {
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

// mayGrant says whether the kernel may admit connections of the rule: not if the rule only
// counts, and is to tell whom it would refuse; nor if its sources count for other rules too,
// whose limits may let them have more than this one's would by the time a place is used.
func (x *entry) mayGrant() bool {
	return x.State != rules.Synproxy && !x.CountOnly && x.SourceTrack == rules.TrackRule
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
	n := min((v.table.Limit()-v.table.Len())/4, x.room()/2)
	if src := v.state.Source(); src != nil {
		n = min(n, src.Room(&x.limits, v.now)/2)
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
	g.deny(g.table.Index(&v.p.Tuple), v.now+cookieLife)
}

// recallPause is for how long nothing is granted anew at the cost of who might have been
// refused for it.
const recallPause = 100 * time.Millisecond

// awaitsNote says whether a limit would be passed for places that are reserved, and takes
// them back. What was used of them the engine is to know before it judges: it may be this
// connection's, by a packet behind this one, or that of a client who has closed another.
func (v *visit) awaitsNote(x *entry) bool {
	if v.grants == nil || v.p.Noted || x.CountOnly {
		return false
	}
	source := v.state.Source()
	ofRule := x.Max > 0 && x.reserved.Load() > 0 && x.admitted.Load() >= int64(x.Max)
	ofSource := source != nil && source.Reserved() > 0 && source.Room(&x.limits, v.now) == 0
	if !ofRule && !ofSource {
		return false
	}
	g := v.grants
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takeIf(func(y *given) bool {
		return ofRule && y.rule == x.account || ofSource && y.source == source
	}, v.now+recallPause)
	return true
}
