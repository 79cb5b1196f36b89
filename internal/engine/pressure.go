package engine

import (
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// pressure is a switch with hysteresis: on when more connections are half-open
// than one mark, off when fewer are than another, lower one. Half-open are the
// states whose client has not proved itself, and the cookies that have not come
// back.
type pressure struct {
	capacity atomic.Int64 // what the marks are shares of
	states   atomic.Int64
	cookies  [2]cookiesOut // of the newer and of the older key
	early    atomic.Int64  // those that were back before it was counted that they are out
	on       atomic.Bool
	since    atomic.Int64 // when it was last switched: a time.Duration
	held     atomic.Int64 // it is not switched off before that time
	switches atomic.Uint64
	reported bool // what Switches has told last; only its caller's
	_        [64]byte
}

// marks are the shares of its capacity at which a switch is thrown.
type marks struct{ start, end float64 }

// cookiesOut counts the cookies of one key.
type cookiesOut struct{ sent, returned atomic.Int64 }

func (c *cookiesOut) out() int64 { return max(c.sent.Load()-c.returned.Load(), 0) }

// halfOpen is what is held against the marks.
func (p *pressure) halfOpen() int64 {
	return p.states.Load() + p.cookies[0].out() + p.cookies[1].out()
}

// mark is a share of the capacity, 1 at least.
func (p *pressure) mark(share float64) int64 {
	return max(int64(float64(p.capacity.Load())*share), 1)
}

// rise looks whether there are more than the start mark now.
func (p *pressure) rise(start float64, now time.Duration) {
	if !p.on.Load() && p.halfOpen() > p.mark(start) {
		p.turn(true, now)
	}
}

// hold switches on, if it is off, and keeps it on until a time.
func (p *pressure) hold(now, until time.Duration) {
	p.held.Store(int64(until))
	p.turn(true, now)
}

// fall looks whether there are fewer than the end mark now.
func (p *pressure) fall(end float64, now time.Duration) {
	if p.on.Load() && int64(now) >= p.held.Load() && p.halfOpen() < p.mark(end) {
		p.turn(false, now)
	}
}

// turn throws the switch, unless it is thrown that way already.
func (p *pressure) turn(on bool, now time.Duration) {
	if p.on.CompareAndSwap(!on, on) {
		p.since.Store(int64(now))
		p.switches.Add(1)
	}
}

// lastSwitch is when it was last switched, if it ever was.
func (p *pressure) lastSwitch() time.Duration { return time.Duration(p.since.Load()) }

// rotate is for a new key of the cookies: those of the older one are lost.
func (p *pressure) rotate() {
	older := &p.cookies[1]
	older.sent.Store(p.cookies[0].sent.Swap(0))
	older.returned.Store(p.cookies[0].returned.Swap(0))
}

// cookiesLive says whether a cookie can be out.
func (p *pressure) cookiesLive() bool {
	return p.cookies[0].sent.Load()+p.cookies[1].sent.Load() > 0
}

// cookiesSent counts n cookies as out, but for those that are back already: what the kernel
// sends is counted later.
func (p *pressure) cookiesSent(n int64) {
	p.cookies[0].sent.Add(n)
	if back := min(p.early.Load(), n); back > 0 {
		p.early.Add(-back)
		p.cookies[0].returned.Add(back)
	}
}

// counted is for when all that the kernel has sent was counted. What is early by now is so
// because a cookie came back twice, or just now: some is forgotten, and soon all of it.
func (p *pressure) counted() { p.early.Add(-(p.early.Load() + 1) / 2) }

// cookieBack takes a cookie of either key off those that are out.
func (p *pressure) cookieBack() {
	for i := range p.cookies {
		if p.cookies[i].out() > 0 {
			p.cookies[i].returned.Add(1)
			return
		}
	}
	p.early.Add(1)
}

// proxies says whether the SYN proxy is to answer for a rule now.
func (e *Engine) proxies(x *entry) bool {
	switch x.State {
	case rules.Synproxy:
		return true
	case rules.Adaptive:
		return x.pressure.on.Load() || e.total.on.Load()
	}
	return false
}

// remembers says whether the SYN proxy keeps a state for a client of the rule that
// has not proved itself; else it answers with a cookie.
func (e *Engine) remembers(x *entry) bool {
	mode := e.rules.Load().cookies
	bakes := mode == synproxy.CookiesAlways || mode == synproxy.CookiesAdaptive && e.total.on.Load()
	return !bakes || !e.proxies(x)
}

// pressuresOf are those that a state of the rule counts in.
func (e *Engine) pressuresOf(x *entry) [2]*pressure { return [2]*pressure{&e.total, &x.pressure} }

// press counts the state as half-open, or no more, as it is one now, and tells the kernel of it.
func (e *Engine) press(s *conntrack.State, now time.Duration) {
	e.tellKernel(s)
	if s.HalfOpen() == s.Pressing {
		return
	}
	s.Pressing = !s.Pressing
	for _, p := range e.pressuresOf(e.ruleOf(s)) {
		if s.Pressing {
			p.states.Add(1)
			p.rise(e.rules.Load().marks.start, now)
		} else {
			p.states.Add(-1)
		}
	}
}

// relieve counts a state that is removed no more.
func (e *Engine) relieve(s *conntrack.State) {
	e.untell(s)
	if s.Pressing {
		s.Pressing = false
		for _, p := range e.pressuresOf(e.ruleOf(s)) {
			p.states.Add(-1)
		}
	}
}

// cookiesSent counts cookies of connections that a rule matches.
func (e *Engine) cookiesSent(x *entry, n int64, now time.Duration) {
	e.counters.CookiesSent.Add(uint64(n))
	for _, p := range e.pressuresOf(x) {
		p.cookiesSent(n)
		p.rise(e.rules.Load().marks.start, now)
	}
}

// cookieBack counts one that a client has repeated.
func (e *Engine) cookieBack(x *entry) {
	e.counters.CookiesValid.Add(1)
	for _, p := range e.pressuresOf(x) {
		p.cookieBack()
	}
}

// relax switches off what is under its end mark, once what the kernel has sent is counted.
func (e *Engine) relax(now time.Duration) {
	s := e.rules.Load()
	relax := func(p *pressure) {
		p.counted()
		p.fall(s.marks.end, now)
	}
	relax(&e.total)
	for _, x := range s.byNumber {
		relax(&x.pressure)
	}
}

// SetBacklog tells how many half-open connections the servers of a rule stand, as
// far as is known; 0 is not known. The rule's own word goes before it.
func (e *Engine) SetBacklog(rule int, backlog int) {
	x := e.rules.Load().byNumber[rule-1]
	states := e.table.Limit()
	capacity := states
	switch {
	case x.Backlog > 0:
		capacity = int(x.Backlog)
	case backlog > 0:
		capacity = backlog
	}
	x.pressure.capacity.Store(int64(min(capacity, states)))
}

// Pressure is a switch as a listing shows it.
type Pressure struct {
	Rule     string // empty: over all rules, for the cookies
	On       bool   // the SYN proxy answers for the rule; or answers with cookies
	Since    time.Duration
	Switches uint64 // since the start; 0: Since means nothing
	HalfOpen int    // connections now
	Start    int    // switched on above
	End      int    // switched off below
}

func (e *Engine) pressure(rule string, p *pressure) Pressure {
	marks := e.rules.Load().marks
	return Pressure{
		Rule: rule, On: p.on.Load(), Since: p.lastSwitch(), Switches: p.switches.Load(),
		HalfOpen: int(p.halfOpen()), Start: int(p.mark(marks.start)), End: int(p.mark(marks.end)),
	}
}

// overrunTime is for how long at least SYNs are answered with cookies once packets have come
// faster than they were judged: a flood has as many half-open by then.
const overrunTime = time.Second

// Overrun tells that for some time now more packets have come than were judged: who waits for
// many to be half-open would have them wait. It has no effect unless cookies are adaptive.
func (e *Engine) Overrun(now time.Duration) {
	if e.rules.Load().cookies == synproxy.CookiesAdaptive {
		e.total.hold(now, now+overrunTime)
	}
}

// Total is the switch over all rules.
func (e *Engine) Total() Pressure { return e.pressure("", &e.total) }

// Pressures calls f for each rule whose state is adaptive.
func (e *Engine) Pressures(f func(Pressure)) {
	for _, x := range e.rules.Load().byNumber {
		if x.State == rules.Adaptive {
			f(e.pressure(x.Name, &x.pressure))
		}
	}
}

// Switches calls f for each switch that has a use and was thrown since the last
// call. Only one goroutine calls it.
func (e *Engine) Switches(f func(Pressure)) {
	tell := func(rule string, p *pressure) {
		if on := p.on.Load(); on != p.reported {
			p.reported = on
			f(e.pressure(rule, p))
		}
	}
	s := e.rules.Load()
	if s.cookies == synproxy.CookiesAdaptive {
		tell("", &e.total)
	}
	for _, x := range s.byNumber {
		if x.State == rules.Adaptive {
			tell(x.Name, &x.pressure)
		}
	}
}
