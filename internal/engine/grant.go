package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// maxGrant is how many SYNs of one client and server may pass before the engine takes note
// of the first.
const maxGrant = 32

// grant lets the kernel pass the next SYNs of a client whose connection has just been
// admitted, and their answers. The ACK of each is judged as ever: what is granted is that
// none is refused before. While connections are being ended nothing is: a SYN may be of one
// of them.
func (v *visit) grant() {
	s := v.state
	if v.grants == nil || s.Proxied || s.Adopted || !s.Answered || s.InDev == 0 || s.Created <= v.grants.Since() {
		return
	}
	x := v.stateRule()
	if x.State != rules.Synproxy && v.leaving.Load() == 0 {
		v.grants.Give(v.now, &s.Tuple, s.InDev, s.ReplyDev, int32(v.grantable(x)))
	}
}

// grantable is how many SYNs the client may be granted: half of those that no limit would
// refuse, for others may come from the same source.
func (v *visit) grantable(x *entry) int {
	n := (v.table.Limit() - v.table.Len()) / 4
	if src := v.state.Source(); src != nil && !x.CountOnly {
		n = min(n, src.Room(&x.limits, v.now)/2)
	}
	if x.Max > 0 && !x.CountOnly {
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

// noGrant is for a SYN that the SYN proxy answers under a rule that keeps state for others.
// If it is for what the SYN says, its client is granted nothing for as long as its handshake
// may take: it sends its SYN again without that. Else there is pressure.
func (v *visit) noGrant() {
	switch {
	case v.grants == nil || v.rule.State == rules.Synproxy:
	case v.p.OpensFast():
		v.grants.Deny(&v.p.Tuple, v.now+cookieLife)
	case v.grants.Live():
		v.grants.Withdraw(v.now)
	}
}
