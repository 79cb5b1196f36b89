package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// observe takes note of a packet that has passed: one of a handshake that was granted, or one
// of an admitted connection, whose closing wants no verdict.
func (v *visit) observe() {
	v.d.pass(packet.MarkClear)
	s := v.state
	switch {
	case v.p.Flags.Has(packet.SYN):
		v.observeOpening()
	case v.p.Admitted:
		v.observeAdmitted()
	case s == nil || !s.Offloaded || s.Leaving() || v.wasReset():
	case s.Forged(v.dir, v.p):
		v.unmark()
	case v.closes() && v.p.Kernel == packet.KernelNotAsked:
		v.d.Offload = queryEntry(s.Tuple)
	case v.closes() && !v.kernelObeys():
		v.unmark()
	default:
		v.advance()
		v.press(s, v.now)
	}
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
	rule, source := v.grants.redeem(v.p.Grant)
	if rule == x.account {
		rule.reserved.Add(-1)
		rule = nil
	} else {
		x.enter(x.Max, true)
	}
	if source != nil && source == v.state.Source() {
		v.state.AdmitReserved(&x.limits, v.now)
		source = nil
	} else {
		v.state.Admit(&x.limits, v.now, true)
	}
	giveBack(rule, source)
}

// redeem gives back the place by which the packet was admitted.
func (v *visit) redeem() { giveBack(v.grants.redeem(v.p.Grant)) }

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
		v.outlive()
	}
	var s conntrack.State
	s.Begin(v.p, v.now)
	s.Src.State, s.Dst.State, s.Adopted = conntrack.Established, conntrack.Established, true
	return v.insert(&s)
}

// outlive forgets the packet's state, and leaves the kernel's entry, which is that of the
// next connection by now.
func (v *visit) outlive() {
	v.dropLater(v.forget(v.shard, v.state))
	v.state = nil
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
	v.noteTrial()
	if v.state != nil && (v.expired() || v.replaces()) {
		v.outlive()
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
