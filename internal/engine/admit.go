package engine

import (
	"errors"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// admission is the answer to a connection that would come to its server.
type admission uint8

const (
	admitted  admission = iota
	denied              // and refused: there is no state any more
	postponed           // nothing was decided: the source has to be held first
)

// reasons name the limits of a source.
var reasons = [...]packet.Reason{
	conntrack.LimitConns: packet.ReasonMaxSrcConn, conntrack.LimitStates: packet.ReasonMaxSrcStates,
	conntrack.LimitRate: packet.ReasonMaxSrcConnRate, conntrack.LimitNodes: packet.ReasonMaxSrcNodes,
}

// excess finds a limit that a SYN's connection would pass, if its client were to
// prove itself. One that would put the client into a table is left for then: a SYN may
// be in the name of another.
func (v *visit) excess() (over Refusal, found bool) {
	x := v.rule
	n := x.admitted.Load() - x.reserved.Load()
	switch {
	case x.CountOnly:
	case x.Max > 0 && n >= int64(x.Max):
		return Refusal{Reason: packet.ReasonMax, Count: uint64(n), Limit: uint64(x.Max)}, true
	case v.over.Limit != conntrack.LimitNone && !x.overloads(v.over.Limit):
		return x.refusal(v.over), true
	}
	return Refusal{}, false
}

// overloads says whether a source that passes the limit is put into a table.
func (x *entry) overloads(l conntrack.Limit) bool {
	return x.Overload != "" && (l == conntrack.LimitConns || l == conntrack.LimitRate)
}

// refusal is for a source that has as much as the rule allows.
func (x *entry) refusal(over conntrack.Excess) Refusal {
	r := Refusal{Reason: reasons[over.Limit], Count: uint64(over.Count), Limit: uint64(over.Of)}
	if over.Limit == conntrack.LimitRate {
		r.Window = x.limits.Rate.Window
	}
	return r
}

// admit is the only way for a connection to come to its server, whether its
// handshake was kept, proxied or taken up from a cookie. Who is admitted holds
// a slot of its source from here on. Who is denied is refused.
func (v *visit) admit() admission {
	if v.state.Admitted() {
		return admitted
	}
	x := v.stateRule()
	if x.limits.Any() && !v.state.Bound() {
		if a := v.bind(x); a != admitted {
			return a
		}
	}
	if v.awaitsNote(x) {
		v.d.Again = true
		return postponed
	}
	if x.enter(x.Max, x.CountOnly) {
		over := Refusal{Reason: packet.ReasonMax, Count: uint64(x.Max), Limit: uint64(x.Max)}
		if !x.CountOnly {
			v.deny(over)
			return denied
		}
		v.note(x, over)
	}
	over := v.state.Admit(&x.limits, v.now, x.CountOnly)
	if over.Limit == conntrack.LimitNone {
		return admitted
	}
	if x.CountOnly {
		v.note(x, x.refusal(over))
		return admitted
	}
	x.admitted.Add(-1)
	v.overload(x, over)
	v.deny(x.refusal(over))
	return denied
}

// bind makes the state one of its source's, which may have to be held first. If it
// cannot be, the connection is denied, or goes without.
func (v *visit) bind(x *entry) admission {
	a := v.tryBind(x)
	if a != denied {
		return a
	}
	over := v.refusedSource(x)
	if x.CountOnly {
		v.note(x, over)
		return admitted
	}
	v.deny(over)
	return denied
}

// tryBind is bind, but for what follows from a denial.
func (v *visit) tryBind(x *entry) admission {
	key := x.sourceKey(v.state.Tuple.Src)
	switch {
	case v.source != nil && v.source.Key == key, v.refused == nil && v.tryHoldSource(x, key):
		v.state.Bind(v.source)
		v.source = nil
		if v.refused != nil { // and is held all the same, for the rule only counts
			v.note(x, v.refusedSource(x))
		}
		return admitted
	case v.refused == nil || v.wanted != key:
		v.wants, v.wanted, v.wantedBy = true, key, x
		return postponed
	}
	return denied
}

// refusedSource is for a source that there is no room for.
func (v *visit) refusedSource(x *entry) Refusal {
	if errors.Is(v.refused, conntrack.ErrNodes) {
		return Refusal{Reason: packet.ReasonMaxSrcNodes, Count: uint64(x.MaxSrcNodes), Limit: uint64(x.MaxSrcNodes)}
	}
	n := uint64(v.sources.Limit())
	return Refusal{Reason: packet.ReasonSrcLimit, Count: n, Limit: n}
}

// overload orders that the source be put into the rule's table.
func (v *visit) overload(x *entry, over conntrack.Excess) {
	if x.overloads(over.Limit) {
		v.d.Overload = Overload{Table: x.Overload, Prefix: x.Source(v.state.Tuple.Src), Flush: x.Flush, Rule: x.Name}
	}
}

// deny refuses the packet's connection and forgets it.
func (v *visit) deny(over Refusal) {
	v.rule = v.stateRule()
	kept := !v.state.Proxied
	tuple, next := v.state.Tuple, v.state.Src.SeqLo
	v.remove()
	v.refuse(over)
	if kept {
		// The server has answered, and the kernel knows of it.
		v.d.emit(synproxy.Reset(tuple, next))
		v.d.Offload = deleteEntry(tuple)
	}
}

// refuse drops the packet, and tells its sender if the rule says so.
func (v *visit) refuse(over Refusal) {
	v.d.drop(over.Reason)
	over.Enforced = true
	v.note(v.rule, over)
	v.tell()
}

// tell says to a refused packet's sender that it is, unless the rule keeps silent.
func (v *visit) tell() {
	if v.rule.Refuse == rules.RefuseReset && !v.p.Flags.Has(packet.RST) {
		v.d.emit(synproxy.Refusal(v.p))
	}
}

// note counts a refusal, and has the caller report it.
func (v *visit) note(x *entry, over Refusal) {
	over.Rule = x.Name
	counters := &x.wouldRefuse
	if over.Enforced {
		counters = &x.refused
	}
	counters[over.Reason].Add(1)
	if over.Enforced || v.d.Refusal.Reason == packet.ReasonMatch { // rules that only count may pass several limits
		v.d.Refusal = over
	}
}
