package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
	"nfqfw/synproxy"
)

// synackRetries are the times after the first SYN+ACK to the client at which it is
// sent again, in case that the client's ACK was lost: one that waits for its
// server to speak first would wait for ever. The client's own SYNs are answered
// besides.
var synackRetries = [...]time.Duration{time.Second, 3 * time.Second, 7 * time.Second}

// shakeHands is the SYN proxy's part. No packet passes; each is part of one of
// our own two handshakes.
func (v *visit) shakeHands() {
	v.d.drop(packet.ReasonSynproxy)
	switch {
	case v.dir == conntrack.Reply && v.state.Src.State == conntrack.ProxyDst:
		v.fromServer()
	case v.dir == conntrack.Reply:
		v.serverTells()
	case v.clientEnds():
		v.endHandshake()
	case v.state.Src.State == conntrack.ProxySrc:
		v.proveClient()
	default:
		v.clientWaits()
	}
}

// clientEnds says whether the client resets or closes, with the exact number. A FIN
// behind data ends nothing: the client will send both again.
func (v *visit) clientEnds() bool {
	h, p := &v.state.Handshake, v.p
	closes := p.Flags.Has(packet.FIN|packet.ACK) && p.Ack == h.ISN+1 && p.PayloadLen == 0
	return p.Seq == h.Client+1 && (p.Flags.Has(packet.RST) || closes)
}

// endHandshake forgets the connection and tells whoever still believes in it.
func (v *visit) endHandshake() {
	if v.state.Src.State == conntrack.ProxyDst || askedFirst(v.state) {
		v.d.emit(resetServer(v.state))
	}
	if !v.p.Flags.Has(packet.RST) {
		v.d.emit(resetClient(v.state))
	}
	v.remove()
}

// resetServer and resetClient abort the two handshakes of the SYN proxy's, with
// the numbers that either side expects next.
func resetServer(s *conntrack.State) packet.Segment {
	return synproxy.Reset(s.Tuple, s.Handshake.Client+1)
}

func resetClient(s *conntrack.State) packet.Segment {
	return synproxy.Reset(s.Tuple.Reverse(), s.Handshake.ISN+1)
}

// clientSYNACK is the answer to a client that was told what to expect.
func clientSYNACK(s *conntrack.State) packet.Segment {
	told := s.Handshake.ToldOptions()
	told.TSVal = stamp(s)
	return synproxy.SYNACK(s.Tuple, s.Handshake.ISN, s.Handshake.Client, told)
}

// stamp is the timestamp that the client was told.
func stamp(s *conntrack.State) uint32 {
	return synproxy.Stamp(s.Handshake.ISN, s.Handshake.Offered())
}

// answerAgain sends the client our SYN+ACK again, and says whether to do so once
// more. Under a flood it lets its turn pass: the clients' own SYNs have to do.
func (e *Engine) answerAgain(s *conntrack.State, now time.Duration) bool {
	if !e.total.on.Load() {
		e.decide().emit(clientSYNACK(s))
	}
	return postpone(&s.Handshake, synackRetries[:], now)
}

// postpone sets when what was sent so often is due again, by the times after the
// first. It says whether it is: not after the last.
func postpone(h *conntrack.Handshake, times []time.Duration, now time.Duration) bool {
	if int(h.Tries) == len(times) {
		return false
	}
	h.Due = now + times[h.Tries] - times[h.Tries-1]
	h.Tries++
	return true
}

// proveClient waits in PROXY:SRC for the ACK that shows that the client is
// where it says it is.
func (v *visit) proveClient() {
	h, p := &v.state.Handshake, v.p
	if h.Held {
		return // it has not been told what to repeat
	}
	if p.IsSYN() {
		h.TSVal = p.Options.TSVal
		v.d.emit(clientSYNACK(v.state))
		return
	}
	proved := p.Flags&(packet.ACK|packet.SYN|packet.RST) == packet.ACK && p.Ack == h.ISN+1
	expected := p.Seq == h.Client+1 || p.Seq == h.Client // its ACK, or a probe if that was lost
	if !proved || !expected {
		if !v.overtaken() {
			v.refuseOlder()
		}
		return
	}
	if v.admit() != admitted {
		return
	}
	v.heard()
	v.state.Src.State = conntrack.ProxyDst
	v.state.Refresh(v.now)
	v.clearOlder()
	v.ask()
	v.shard.Wait(v.state)
}

// overtaken begins anew, if the kernel has answered another SYN of the client's meanwhile, or
// this one by a newer key, and the client repeats that cookie. It says whether it did. Else an
// ACK that repeats another cookie is an answer to an older SYN than the state's.
func (v *visit) overtaken() bool {
	if !v.answers.lately(v.now) || v.p.Flags&(packet.ACK|packet.SYN|packet.RST) != packet.ACK {
		return false
	}
	v.rule, v.trial = v.rules.Load().find(v.p)
	if _, _, ok := syncookie.Proof(v.jar, v.p); !ok || v.cookieRule() == nil {
		return false
	}
	v.remove()
	v.open()
	return true
}

// clearOlder removes what the kernel still has of an older connection, which was
// kept: what the server says of that one, when it gets our SYN, would pass by us.
func (v *visit) clearOlder() {
	if v.p.Conn != packet.ConnNew {
		v.d.Offload = deleteEntry(v.state.Tuple)
	}
}

// refuseOlder resets a client whose packet is of an older connection, as a
// server in SYN-RECEIVED does (RFC 9293 section 3.10.7.4).
func (v *visit) refuseOlder() {
	if v.p.Flags&(packet.ACK|packet.RST) == packet.ACK && v.p.Ack != v.state.Handshake.ISN+1 {
		v.d.emit(synproxy.Refusal(v.p))
	}
}

// heard notes what the server will have to know of the client's last segment.
func (v *visit) heard() {
	h := &v.state.Handshake
	h.Window = v.p.Window
	if v.p.Options.HasTimestamp {
		h.TSVal = v.p.Options.TSVal
	}
}

// clientWaits answers what the client sends while the server is being asked.
// The window it was given is zero; a Linux client with data probes it with the
// number before the first, others with the first (RFC 9293 section 3.8.6.1).
func (v *visit) clientWaits() {
	h, p := &v.state.Handshake, v.p
	if !p.Flags.Has(packet.ACK) || p.Ack != h.ISN+1 {
		v.refuseOlder()
		return
	}
	if p.Seq == h.Client+1 {
		v.heard()
	}
	if p.Seq == h.Client || p.PayloadLen > 0 {
		wait := synproxy.ACK(v.state.Tuple.Reverse(), h.ISN+1, h.Client+1, 0)
		v.d.emit(synproxy.Stamped(wait, h.Stamps, stamp(v.state), p.Options.TSVal))
	}
}
