package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/synproxy"
)

// synRetries are the times after the first SYN to the server at which it is
// sent again; after the last entry it is given up.
var synRetries = [...]time.Duration{time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}

// maxAgain is how often a server is asked without window scaling that answers
// with it. Once is usual, for a server that is new; late answers cost one each.
const maxAgain = 4

// shakeHands is the SYN proxy's part. No packet passes; each is part of one of
// our own two handshakes.
func (v *visit) shakeHands() {
	v.d.drop(packet.ReasonSynproxy)
	switch {
	case v.dir == conntrack.Reply && v.state.Src.State == conntrack.ProxyDst:
		v.fromServer()
	case v.dir == conntrack.Reply:
		// The server was not asked anything yet.
	case v.clientEnds():
		v.endHandshake()
	case v.state.Src.State == conntrack.ProxySrc:
		v.proveClient()
	default:
		v.clientWaits()
	}
}

// clientEnds says whether the client resets or closes, with the exact number.
func (v *visit) clientEnds() bool {
	h := &v.state.Handshake
	return v.p.Flags.Any(packet.RST|packet.FIN) && v.p.Seq == h.Client+1 &&
		(v.p.Flags.Has(packet.RST) || v.p.Flags.Has(packet.ACK) && v.p.Ack == h.ISN+1)
}

// endHandshake forgets the connection and tells whoever still believes in it.
func (v *visit) endHandshake() {
	if v.state.Src.State == conntrack.ProxyDst {
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

// proveClient waits in PROXY:SRC for the ACK that shows that the client is
// where it says it is.
func (v *visit) proveClient() {
	h, p := &v.state.Handshake, v.p
	if p.IsSYN() {
		v.d.emit(synproxy.SYNACK(v.state.Tuple, h.ISN, h.Client, h.ToldOptions()))
		return
	}
	proved := p.Flags&(packet.ACK|packet.SYN) == packet.ACK && p.Ack == h.ISN+1
	expected := p.Seq == h.Client+1 || p.Seq == h.Client // its ACK, or a probe if that was lost
	if !proved || !expected {
		v.refuseOlder()
		return
	}
	switch v.admit() {
	case admitted:
		h.Window = p.Window
		v.state.Src.State = conntrack.ProxyDst
		v.state.Refresh(v.now)
		v.ask()
		v.shard.Wait(v.state)
	case denied:
		v.deny()
	}
}

// refuseOlder resets a client whose packet is of an older connection, as a
// server in SYN-RECEIVED does (RFC 9293 section 3.10.7.4).
func (v *visit) refuseOlder() {
	if v.p.Flags&(packet.ACK|packet.RST) == packet.ACK && v.p.Ack != v.state.Handshake.ISN+1 {
		v.d.emit(synproxy.Refusal(v.p))
	}
}

// ask sends the server its first SYN.
func (v *visit) ask() {
	h := &v.state.Handshake
	_, known := v.servers.Options(v.state.Tuple, v.now)
	h.Learning = !known
	h.Tries = 1
	h.Due = v.now + synRetries[0]
	v.d.emit(serverSYN(v.state))
}

// serverSYN is the SYN for the server, in the client's name.
func serverSYN(s *conntrack.State) packet.Segment {
	return synproxy.SYN(s.Tuple, s.Handshake.Client, uint16(min(s.Src.MaxWin, 0xffff)), offer(s))
}

// offer is what a SYN offers the server: what the client was told, or, to
// learn, everything.
func offer(s *conntrack.State) packet.Options {
	h := &s.Handshake
	return packet.Options{
		MSS: h.MSS, WScale: h.WScale, HasWScale: h.Told || h.Learning, SACKPermitted: h.SACK || h.Learning,
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
		h.Window = p.Window
	}
	if p.Seq == h.Client || p.PayloadLen > 0 {
		v.d.emit(synproxy.ACK(v.state.Tuple.Reverse(), h.ISN+1, h.Client+1, 0))
	}
}

// fromServer takes the server's answer to our SYN.
func (v *visit) fromServer() {
	h, p := &v.state.Handshake, v.p
	switch {
	case !p.Flags.Has(packet.ACK):
	case p.Flags.Has(packet.RST):
		if p.Ack == h.Client+1 {
			v.serverRefuses()
		}
	case p.IsSYNACK() && p.Ack == h.Client+1:
		v.serverAnswers()
	default:
		// An older connection's remains, in the way of ours: clear it, ask again.
		v.d.emit(synproxy.Reset(v.state.Tuple, p.Ack))
		v.d.emit(serverSYN(v.state))
	}
}

func (v *visit) serverRefuses() {
	v.d.emit(resetClient(v.state))
	v.remove()
}

// serverAnswers learns from the SYN+ACK and joins the two handshakes, if both
// sides will read each other's windows right.
func (v *visit) serverAnswers() {
	s, h, answer := v.state, &v.state.Handshake, v.p.Options
	if asked := offer(s); asked.HasWScale || !answer.HasWScale {
		v.servers.Learn(s.Tuple, asked, answer, v.now)
	}
	switch {
	case answer.HasWScale == h.Told && (!h.Told || answer.WScale == h.ToldBy):
		v.join()
	case !h.Told && h.Again < maxAgain:
		// The client does not know that this server scales: ask without. The
		// answer may also be a late one to an earlier SYN that did offer it;
		// the server then has that connection in mind, and is to forget it.
		h.Learning = false
		h.Again++
		v.d.emit(resetServer(s))
		v.d.emit(serverSYN(s))
	default:
		// The server has changed, and the client cannot be told any more; or it
		// answers what it was not asked.
		v.d.emit(resetServer(s))
		v.d.emit(resetClient(s))
		v.remove()
	}
}

// join makes one connection of the two handshakes: the kernel is told to
// translate the server's numbers, the server gets its ACK, and the client its
// window.
func (v *visit) join() {
	s, h, p := v.state, &v.state.Handshake, v.p
	s.Src.State, s.Dst.State = conntrack.Established, conntrack.Established
	s.Src.WScale, s.Src.HasWScale = h.WScale, h.Told
	s.Dst.WScale, s.Dst.HasWScale = h.ToldBy, h.Told
	s.Dst.Seen, s.Dst.SeqLo, s.Dst.MaxWin = true, p.Seq+1, uint32(p.Window)
	s.Src.SeqHi = (h.Client + 1).Add(seqnum.Size(p.Window))
	s.Dst.SeqHi = s.Dst.SeqLo.Add(seqnum.Size(h.Window))
	s.SeqDiff = p.Seq.Size(h.ISN)
	s.Answer(p)
	s.Offloaded = true
	s.Refresh(v.now)
	v.d.Offload = v.create(s)
	v.d.Offload.Join = true
	// The kernel's entry learns both windows from these two. From any other
	// packet, a forged one too, it would take whatever that says.
	v.d.emitTracked(synproxy.ACK(s.Tuple, h.Client+1, h.ISN+1, h.Window))
	v.d.emitTracked(synproxy.ACK(s.Tuple.Reverse(), p.Seq+1, h.Client+1, scaleDown(p.Window, s.Dst.WScale)))
}

// create is the order for the kernel's entry of an established connection.
func (e *Engine) create(s *conntrack.State) packet.Offload {
	return packet.Offload{
		Op: packet.OffloadCreate, Tuple: s.Tuple, Timeout: e.lifetime(s),
		SeqDiff: s.SeqDiff, ServerISN: s.Dst.SeqLo - 1,
		SrcWScale: s.Src.WScale, DstWScale: s.Dst.WScale, HasWScale: s.Src.HasWScale && s.Dst.HasWScale,
		SACKPermitted: s.Handshake.SACK, Track: s.AwaitsACK() || s.Handshake.Asking || s.Handshake.Ending,
	}
}

// scaleDown is a SYN's window as later segments give it. It does not round an
// open window to zero, which the peer would have to probe.
func scaleDown(window uint16, shift uint8) uint16 {
	if window == 0 {
		return 0
	}
	return max(window>>shift, 1)
}
