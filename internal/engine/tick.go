package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
)

// Tick does what is due without a packet: it sends SYNs to servers again, gives
// up on those that do not answer, and removes states whose time is over. It
// calls do for each decision, with no lock held. A decision that orders a query
// is about a state whose payload passes in the kernel: the caller looks how
// long the entry was idle and calls Idle.
//
// Each call looks at a tenth of the table. Called ten times a second, it leaves
// no state more than a second past its time; a look-up never finds one.
func (e *Engine) Tick(now time.Duration, do func(*Decision)) {
	e.turn++
	for i := range e.table.Shards() {
		e.tickShard(i, i%sweepParts == e.turn%sweepParts, now)
		for j := range e.due {
			do(&e.due[j])
		}
		e.due = e.due[:0]
		for _, s := range e.released {
			e.table.Drop(s, now)
		}
		e.released = e.released[:0]
	}
	e.putOffAnswers(now)
	e.relax(now)
	e.sweepGrants(now)
	e.sources.Sweep(e.turn%conntrack.Sweeps, now)
	if e.turn%sweepParts == 0 {
		e.servers.Forget(now)
	}
}

const sweepParts = 10

func (e *Engine) tickShard(i int, sweep bool, now time.Duration) {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Waiting(now, func(s *conntrack.State) bool { return e.retry(sh, s, now) })
	if sweep {
		sh.Each(func(s *conntrack.State) { e.sweep(sh, s, now) })
	}
}

// retry sends again what was not answered, and says whether to wait on.
func (e *Engine) retry(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	if e.sendAgain(sh, s, now) {
		return true
	}
	s.Handshake.Due = 0 // nothing waits for it any more
	return false
}

func (e *Engine) sendAgain(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	switch {
	case s.Killed:
		return e.killAgain(sh, s, now)
	case s.Handshake.Asking:
		return e.askAgain(s, now)
	case s.Src.State == conntrack.ProxySrc && s.Handshake.Held:
		return e.release(sh, s, now)
	case s.Src.State == conntrack.ProxySrc:
		return e.answerAgain(s, now)
	case s.Src.State == conntrack.ProxyDst:
		return e.tryAgain(sh, s, now)
	}
	return false
}

// sweep removes a state whose time is over, unless the kernel has to be asked.
func (e *Engine) sweep(sh *conntrack.Shard, s *conntrack.State, now time.Duration) {
	switch {
	case !e.pastDue(s, now):
	case s.ShakingHands():
		e.abandon(sh, s)
	case s.Offloaded && !s.Closed():
		e.decide().Offload = queryEntry(s.Tuple)
	default:
		e.expire(sh, s)
	}
}

// abandon ends a handshake of the SYN proxy's that came to nothing.
func (e *Engine) abandon(sh *conntrack.Shard, s *conntrack.State) {
	d := e.decide()
	if s.Src.State == conntrack.ProxyDst {
		d.emit(resetClient(s))
		d.emit(resetServer(s))
	}
	e.released = append(e.released, e.forget(sh, s))
}

// expire removes a state, and the kernel's entry that stood for it.
func (e *Engine) expire(sh *conntrack.Shard, s *conntrack.State) {
	if e.standsFor(s) {
		e.decide().Offload = deleteEntry(s.Tuple)
	}
	e.released = append(e.released, e.forget(sh, s))
}

func (e *Engine) decide() *Decision {
	e.due = append(e.due, Decision{})
	return &e.due[len(e.due)-1]
}

// Idle answers a query of Tick's: the kernel has seen no packet of the
// connection for so long, or, if it is not present, has no entry of it. The
// state lives on from the last packet, or d says what its end takes.
func (e *Engine) Idle(now time.Duration, t packet.Tuple, idle time.Duration, present bool, d *Decision) {
	*d = Decision{}
	e.table.Drop(e.judgeIdle(now, t, idle, present, d), now)
}

// judgeIdle returns the source of a state that is over.
func (e *Engine) judgeIdle(now time.Duration, t packet.Tuple, idle time.Duration, present bool, d *Decision) *conntrack.Source {
	sh := e.table.Lock(t)
	defer sh.Unlock()
	s, _ := sh.Find(t)
	switch {
	case s == nil || !e.pastDue(s, now):
		return nil
	case present && idle < e.lifetime(s) && !s.Handshake.Ending:
		s.Refreshed = max(s.Refreshed, now-idle)
		return nil
	case s.Admitted() && s.Dst.State == conntrack.Established && !s.Handshake.Ending:
		e.end(sh, s, now, d)
		return nil
	}
	d.Offload = deleteEntry(s.Tuple)
	if s.Handshake.Ending {
		d.emit(farewell(s)) // the server has said nothing
	}
	return e.forget(sh, s)
}

// Abort ends a connection that the kernel would not take an entry for: d says
// how to tell both sides.
func (e *Engine) Abort(now time.Duration, t packet.Tuple, d *Decision) {
	*d = Decision{}
	e.table.Drop(e.abort(t, d), now)
}

// abort returns the source of the state.
func (e *Engine) abort(t packet.Tuple, d *Decision) *conntrack.Source {
	sh := e.table.Lock(t)
	defer sh.Unlock()
	s, _ := sh.Find(t)
	if s == nil {
		return nil
	}
	d.drop(packet.ReasonMemory)
	d.emit(resetServer(s))
	d.emit(resetClient(s))
	return e.forget(sh, s)
}
