package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// admission is the answer to a connection that would come to its server.
type admission uint8

const (
	admitted admission = iota
	denied
	postponed // nothing was decided: the source has to be held first
)

// sourceKey is what a client counts under.
func sourceKey(r *rules.Rule, client packet.Addr) conntrack.SourceKey {
	k := conntrack.SourceKey{Prefix: r.Source(client)}
	if r.SourceTrack == rules.TrackRule {
		k.Rule = uint32(r.Number)
	}
	return k
}

// admit is the only way for a connection to come to its server, whether its
// handshake was kept, proxied or taken up from a cookie. Who is admitted holds
// a slot of its source from here on.
func (v *visit) admit() admission {
	r := v.stateRule()
	if r.MaxSrcConn == 0 {
		return admitted
	}
	if !v.state.Bound() {
		if v.refused != nil {
			return denied
		}
		key := sourceKey(r, v.state.Tuple.Src)
		if v.source == nil || v.source.Key != key {
			v.wants, v.want = true, key
			return postponed
		}
		v.state.Bind(v.source)
		v.source = nil
	}
	if v.state.Reserve(r.MaxSrcConn) {
		return admitted
	}
	return denied
}

// deny refuses the packet's connection and forgets it.
func (v *visit) deny() {
	v.rule, v.slots = v.stateRule(), v.state.Slots()
	kept := !v.state.Proxied
	reason := packet.ReasonMaxSrcConn
	if v.refused != nil {
		reason = packet.ReasonSrcLimit
	}
	tuple, next := v.state.Tuple, v.state.Src.SeqLo
	v.remove()
	v.refuse(reason)
	if kept {
		// The server has answered, and the kernel knows of it.
		v.d.emit(synproxy.Reset(tuple, next))
		v.d.Offload = deleteEntry(tuple)
	}
}

// refuse drops the packet, and tells its sender if the rule says so.
func (v *visit) refuse(reason packet.Reason) {
	v.d.drop(reason)
	v.d.Rule = v.rule.Name
	if reason == packet.ReasonMaxSrcConn {
		v.d.Slots, v.d.Limit = v.slots, v.rule.MaxSrcConn
	}
	if v.rule.Refuse == rules.RefuseReset && !v.p.Flags.Has(packet.RST) {
		v.d.emit(synproxy.Refusal(v.p))
	}
}
