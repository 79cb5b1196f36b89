package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// track decides about a packet of a connection that has a state and whose
// handshake is not the SYN proxy's any more.
func (v *visit) track() {
	if v.state.Meets(v.dir, v.p) && !v.state.Forged(v.dir, v.p) {
		v.state.Meet(v.p)
	}
	switch {
	case v.state.Forged(v.dir, v.p):
		v.forged()
	case v.state.Killed:
		v.dies()
	case v.serverDenies():
		v.obeyed()
	case v.state.Handshake.Ending:
		v.ends()
	case v.lostByKernel():
		v.restore()
	case v.answersUs():
		v.d.drop(packet.ReasonStateMismatch)
		v.d.emit(synproxy.Refusal(v.p))
	case v.p.Flags.Has(packet.SYN) && !v.state.Opening():
		v.lateSYN()
	case !v.state.Fits(v.dir, v.p):
		v.mismatch()
	case v.wasReset() && !v.p.Flags.Has(packet.RST):
		v.afterReset()
	case v.hearsServer():
		v.translateNoMore()
	case v.closes() && v.p.Kernel == packet.KernelNotAsked:
		v.d.Offload = queryEntry(v.state.Tuple)
	case v.closes() && !v.kernelObeys():
		v.guessed()
	case v.state.Establishes(v.dir, v.p):
		v.establish()
	case v.p.Flags.Has(packet.RST):
		v.reset()
	default:
		v.advance()
	}
}

// forged drops what somebody says in the server's name.
func (v *visit) forged() {
	v.d.drop(packet.ReasonStateMismatch)
	if v.state.Offloaded && v.p.Flags.Has(packet.FIN) && !v.state.Leaving() {
		v.unmark()
	}
}

// unmark takes back what the hooks have made of a FIN that nobody obeys.
func (v *visit) unmark() {
	v.d.Offload = packet.Offload{Op: packet.OffloadMark, Tuple: v.state.Tuple, Mark: v.mark()}
}

// advance lets the packet pass and moves the state on. A server that has sent
// its FIN, and any connection that was reset, counts no more.
func (v *visit) advance() {
	if v.dir == conntrack.Reply && !v.p.Flags.Has(packet.RST) {
		v.state.Handshake.Asking = false // it speaks: it holds the connection
	}
	if v.dir == conntrack.Reply && v.p.IsSYNACK() && v.stateRule().State == rules.Adaptive {
		v.learn()
	}
	v.state.Track(v.dir, v.p, v.now)
	v.stateRule().release(v.state)
	v.d.pass(v.mark())
}

// answersUs says whether a server has options for a kept client that this one has not
// offered: it answers the SYN proxy, which asked it in the client's name before the
// pressure went, or before the rule said otherwise, and whose RST was lost.
func (v *visit) answersUs() bool {
	h, o := &v.state.Handshake, &v.p.Options
	answers := v.state.Opening() && v.dir == conntrack.Reply && v.p.IsSYNACK()
	return answers && (o.HasWScale && !h.Scales || o.HasTimestamp && !h.Stamps)
}

// learn takes over what the server of a kept handshake answers to all options: it
// will be proxied when there is pressure. Timestamps that cannot be translated are no
// option.
func (v *visit) learn() {
	asked, answer := v.state.Handshake.Offered(), v.p.Options
	if !v.stamps.Load() {
		asked.HasTimestamp, answer.HasTimestamp = true, false
	}
	if asked.HasWScale && asked.SACKPermitted && asked.HasTimestamp {
		v.servers.Learn(v.state.Tuple, asked, answer, v.now)
	}
}

// mark tells the hooks which of the connection's next packets to queue.
func (v *visit) mark() packet.Mark {
	if v.state.Opening() {
		return packet.MarkOpening
	}
	return steer(v.state)
}

// steer is mark for a connection that is established.
func steer(s *conntrack.State) packet.Mark {
	m := packet.MarkClear
	switch {
	case s.AwaitsACK() || s.Src.State == conntrack.TimeWait || s.Handshake.Asking || s.Handshake.Ending || s.Doubted:
		m = packet.MarkTrack
	case s.Src.State > conntrack.Established:
		m |= packet.MarkClientClosed
	}
	if s.Dst.State > conntrack.Established {
		m |= packet.MarkServerClosed
	}
	return m
}

// establish lets the client's last ACK of a kept handshake through to the
// server, which accepts the connection when it arrives.
func (v *visit) establish() {
	if v.admit() == admitted {
		v.state.Offloaded = true
		v.advance()
		v.grant()
	}
}

// mismatch drops a packet that does not fit its state. One that acknowledges
// something else than the SYN that is outstanding belongs to an older
// connection: its sender is told so, and the SYN sent again gets through (RFC
// 9293 section 3.10.7.4; pf tells the server only).
func (v *visit) mismatch() {
	v.d.drop(packet.ReasonStateMismatch)
	if v.p.Flags&(packet.ACK|packet.RST) != packet.ACK || !v.state.AcksOlder(v.dir, v.p) {
		return
	}
	v.d.emit(synproxy.Refusal(v.p))
	if v.dir == conntrack.Reply && v.p.Flags == packet.ACK && v.p.PayloadLen == 0 {
		// To the client it says the same, and has Linux send its SYN again at once
		// (tcp_input.c: tcp_rcv_synsent_state_process).
		v.d.pass(v.mark())
	}
}

// opensAgain says whether the packet is the first of its side in a kept connection
// that the server has lost and begun anew. The kernel knows of that only if nothing has
// come between SYN and SYN+ACK (nf_conntrack_tcp_packet).
func (v *visit) opensAgain() bool {
	h, p := &v.state.Handshake, v.p
	if h.ISN == 0 || v.state.Proxied || p.Flags&(packet.ACK|packet.SYN|packet.RST) != packet.ACK {
		return false
	}
	if v.dir == conntrack.Reply {
		return p.Seq == h.ISN+1
	}
	first := p.Seq == h.Client+1 || p.Seq == h.Client // its ACK, or a keepalive if that was lost
	return first && p.Ack == h.ISN+1
}

func (v *visit) wasReset() bool { return v.state.Src.State == conntrack.TimeWait }

// reset obeys a RST, but for one of a client whose server may still hold the
// connection: that is not believed on its word.
func (v *visit) reset() {
	if v.dir == conntrack.Original && v.state.Dst.State == conntrack.Established && v.state.Offloaded {
		v.askServer()
		return
	}
	if v.dir == conntrack.Reply && v.state.Dst.State == conntrack.Established && v.state.Handshake.Probe != 0 {
		v.doubtServer()
		return
	}
	if v.dir == conntrack.Original && v.state.Opening() {
		// A copy that no small TTL keeps from the server, which has half the
		// handshake in mind.
		v.d.emit(synproxy.Reset(v.state.Tuple, v.p.Seq))
	}
	if v.dir == conntrack.Reply && v.refusesACK() {
		v.d.emit(synproxy.Reset(v.state.Tuple, v.state.Handshake.Client+1))
	}
	v.advance()
	if v.dir == conntrack.Reply && v.state.Made && v.state.Offloaded {
		v.resetByCopy()
	}
}

// refusesACK says whether a RST of the server's may be no end of its connection: while it
// waits for the last ACK of the handshake it refuses any other so, and waits on (RFC 9293
// section 3.10.7.4). It obeys a RST with the number of that ACK.
func (v *visit) refusesACK() bool {
	s := v.state
	return s.Dst.State == conntrack.Established && !s.Adopted && !v.p.Flags.Has(packet.ACK)
}

// resetByCopy sends the client a copy of its server's RST. Where the kernel
// translates timestamps, it gives a RST of an entry that it was told to make a number
// that the client does not obey (nf_synproxy_core.c: ipv4_synproxy_hook, state
// CLOSE).
func (v *visit) resetByCopy() {
	rst := copied(v.p)
	rst.Seq = rst.Seq.Add(v.state.SeqDiff)
	rst.Options = packet.Options{} // the server's clock is not the client's, and a RST needs none
	v.d.drop(packet.ReasonDuplicate)
	v.d.emit(rst)
	v.d.Offload = deleteEntry(v.state.Tuple)
}

// afterReset is for what still comes after a RST. Who sends has not heard of it,
// or not obeyed it, and now says the exact number it would obey.
func (v *visit) afterReset() {
	v.d.drop(packet.ReasonStateMismatch)
	if v.p.Flags.Has(packet.ACK) {
		v.d.emit(synproxy.Refusal(v.p))
	}
}

// lateSYN is for a SYN inside a connection. It comes before conntrack, which has
// not checked its numbers, so that it must not move the state.
func (v *visit) lateSYN() {
	switch {
	case v.p.IsSYN() && v.dir == conntrack.Original && !v.p.OpensFast():
		// Not ours to answer: only the server knows the numbers that make the
		// client see that it is mistaken (RFC 5961 section 4.2).
		v.d.pass(packet.MarkTrack)
	case v.p.IsSYNACK() && v.dir == conntrack.Reply:
		v.lateSYNACK()
	default:
		v.d.drop(packet.ReasonStateMismatch)
	}
}

// lateSYNACK is a server that has not heard the last ACK of the handshake, or
// that has lost the connection and takes a SYN for a new one.
func (v *visit) lateSYNACK() {
	s, p := v.state, v.p
	switch {
	case s.Dst.State > conntrack.Established:
		v.remove()
		v.d.drop(packet.ReasonStateMismatch)
		v.d.emit(synproxy.Refusal(p))
	case s.Proxied && p.Ack != s.Handshake.Client+1:
		// Late, from an earlier try of the client's, or the server has lost this
		// connection: it is asked.
		v.d.drop(packet.ReasonStateMismatch)
		v.askHeld(v.shard, s, p.Ack, v.now, v.d)
	case s.Proxied:
		// With the number of the answer that was joined. If this one is of another
		// try of ours that the server has in mind, it resets, and the client hears.
		v.d.drop(packet.ReasonSynproxy)
		again := synproxy.ACK(s.Tuple, p.Ack, s.Handshake.ISN.Sub(s.SeqDiff)+1, s.Handshake.Window)
		v.d.emit(synproxy.Stamped(again, s.Handshake.Stamps, s.Handshake.TSVal, p.Options.TSVal))
	default:
		// A question about the old connection has no meaning for a new one, which
		// goes on in the slot of the old.
		s.Handshake.Asking, s.Handshake.Probe = false, 0
		if p.Ack != s.Handshake.Client+1 {
			s.Handshake.Client, s.Handshake.ISN = p.Ack-1, p.Seq
		}
		v.d.pass(v.mark())
	}
}

// replaces says whether a SYN begins a new connection in place of the state:
// the old one is over, or its server has closed it, or it has not come to its
// server and the client begins again with another number. A server that has
// closed may have forgotten the connection, and would take the SYN for a new
// one, which must be admitted as any other.
func (v *visit) replaces() bool {
	s := v.state
	if !v.p.IsSYN() {
		return false
	}
	if s.Closed() {
		return !s.Killed || !s.Handshake.Asking
	}
	again := v.p.Seq+1 == s.Src.SeqLo
	begins := s.Opening() && !again || !s.Opening() && s.Dst.State > conntrack.Established
	return v.dir == conntrack.Original && begins
}

// replace forgets the old state, and the server's half of its handshake.
func (v *visit) replace() {
	if v.state.Src.State == conntrack.ProxyDst || askedFirst(v.state) {
		v.d.emit(resetServer(v.state))
	}
	v.remove()
}

// lostByKernel says whether the kernel carried the payload of this connection
// and now does not know it: somebody flushed its table, or it timed out there
// while the connection was half closed.
func (v *visit) lostByKernel() bool {
	return v.state.Offloaded && !v.state.Closed() &&
		(v.p.Conn == packet.ConnNew || v.p.Conn == packet.ConnInvalid)
}

// restore puts the kernel's entry back. The packet itself has passed conntrack
// without it.
func (v *visit) restore() {
	s, p := v.state, v.p
	switch {
	case p.Kernel == packet.KernelNotAsked:
		v.d.Offload = queryEntry(s.Tuple)
	case v.opensAgain():
		v.putBack()
	case p.Kernel != packet.KernelAbsent:
		v.d.drop(packet.ReasonStateMismatch) // there is an entry, and the packet is outside its window
	case p.Flags.Has(packet.RST) && v.dir == conntrack.Original && s.Dst.State == conntrack.Established:
		v.askServer()
	case p.Flags.Has(packet.RST) && s.Dst.State == conntrack.Established:
		// Nobody can say whether its number is exact, and it is not sent again.
		v.d.drop(packet.ReasonDuplicate)
		v.end(v.shard, s, v.now, v.d)
	case p.Flags.Any(packet.SYN | packet.RST):
		v.d.drop(packet.ReasonStateMismatch)
		v.d.Offload = v.create(s)
	default:
		v.putBack()
	}
}

// putBack has the kernel make an entry that learns from this packet. A copy of it goes
// on; if it has payload its sender sends it again.
func (v *visit) putBack() {
	v.advance()
	v.d.drop(packet.ReasonDuplicate)
	v.d.Offload = v.create(v.state)
	if v.p.PayloadLen == 0 {
		v.d.emitTracked(copied(v.p))
	}
}

// copied is a packet as it came, without its payload and options but for the
// timestamps.
func copied(p *packet.Packet) packet.Segment {
	s := packet.Segment{Tuple: p.Tuple, Seq: p.Seq, Ack: p.Ack, Flags: p.Flags, Window: p.Window}
	return synproxy.Stamped(s, p.Options.HasTimestamp, p.Options.TSVal, p.Options.TSEcr)
}
