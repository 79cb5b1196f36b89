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

// synackRetries are the times after the first SYN+ACK to the client at which it is
// sent again, in case that the client's ACK was lost: one that waits for its
// server to speak first would wait for ever. The client's own SYNs are answered
// besides.
var synackRetries = [...]time.Duration{time.Second, 3 * time.Second, 7 * time.Second}

// holdTime is how long a client waits for an answer while its server is asked what
// it can do, and holdInterval how often it is looked whether another has asked.
const (
	holdTime     = time.Second
	holdInterval = 100 * time.Millisecond
)

// maxAgain is how often a server is sent a SYN again because its answer could not
// be used. An older connection's remains cost one, and each late answer to a SYN
// that offered something else.
const maxAgain = 4

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

// hold begins a state whose client has to wait: its SYN, or that of another client,
// goes to the server first, with all options on offer, and is taken back as soon as
// the server has answered. So nobody is told what is not true, and a server that is
// new, or was set up anew, costs one round trip, once. It is asked once a second at
// most: made-up SYNs do not get through to it.
func (v *visit) hold(asks bool) {
	s := proxyState(v.p, v.now)
	s.Handshake.Held = true
	s.Handshake.Due = v.now + holdInterval
	if !v.insert(s) {
		return
	}
	v.shard.Wait(v.state)
	if asks {
		v.state.Handshake.Tries = 1
		v.d.emit(serverSYN(v.state, v.everything(v.state)))
	}
}

// askedFirst says whether the server has heard of a client that waits.
func askedFirst(s *conntrack.State) bool { return s.Handshake.Held && s.Handshake.Tries > 0 }

// everything is what a SYN offers the server that is to show what it can do.
func (e *Engine) everything(s *conntrack.State) packet.Options {
	o := s.Handshake.Offered()
	o.HasWScale, o.SACKPermitted, o.HasTimestamp = true, true, e.stamps.Load()
	return o
}

// serverTells is for what a server says before its client has proved itself: it
// was asked what it can do.
func (v *visit) serverTells() {
	s, h, p := v.state, &v.state.Handshake, v.p
	answers := p.Flags.Has(packet.ACK) && p.Ack == h.Client+1
	switch {
	case p.IsSYNACK() && answers:
		v.d.emit(resetServer(s))
		if !askedFirst(s) {
			return
		}
		v.servers.Learn(s.Tuple, v.everything(s), p.Options, v.now)
		v.d.Offload = clearKernel(s)
		v.d.emit(v.answerHeld(s, v.now))
		if v.remembers(v.stateRule()) {
			v.shard.Wait(s)
			return
		}
		v.cookieSent(v.stateRule(), v.now)
		v.remove()
	case p.Flags.Has(packet.RST) && answers && askedFirst(s):
		v.servers.Refuse(s.Tuple, v.now)
		v.d.emit(refuseHeld(s))
		v.remove()
	}
}

// clearKernel removes what the kernel may have made of a server's answer to the first
// question, while the hooks are going in: the client's packets would be taken for
// those of that connection.
func clearKernel(s *conntrack.State) packet.Offload {
	return packet.Offload{Op: packet.OffloadDelete, Tuple: s.Tuple}
}

// refuseHeld is the answer to a client whose server refuses: the port does not look
// open.
func refuseHeld(s *conntrack.State) packet.Segment {
	return packet.Segment{Tuple: s.Tuple.Reverse(), Ack: s.Handshake.Client + 1, Flags: packet.RST | packet.ACK}
}

// answerHeld is the answer to a client that had to wait for it.
func (e *Engine) answerHeld(s *conntrack.State, now time.Duration) packet.Segment {
	h := &s.Handshake
	client := h.Offered()
	server, known := e.servers.Options(s.Tuple, now)
	told := e.told(s.Tuple, client, server, known)
	e.answer(s, e.jar.Bake(s.Tuple, h.Client, cookieOptions(client, told)), told, now)
	return clientSYNACK(s)
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

// release answers a client that waits, if its server has answered another client,
// or has said nothing for long enough. It says whether to wait on.
func (e *Engine) release(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	_, known := e.servers.Options(s.Tuple, now)
	refuses := e.servers.Refuses(s.Tuple, now)
	switch {
	case refuses && !known:
		e.decide().emit(refuseHeld(s))
		e.released = append(e.released, e.forget(sh, s))
		return false
	case !known && now < s.Created+holdTime:
		s.Handshake.Due = now + holdInterval
		return true
	}
	d := e.decide()
	if askedFirst(s) {
		d.Offload = clearKernel(s)
		d.emit(resetServer(s)) // the answer may come yet
	}
	d.emit(e.answerHeld(s, now))
	if e.remembers(e.ruleOf(s)) {
		return true
	}
	e.cookieSent(e.ruleOf(s), now)
	e.released = append(e.released, e.forget(sh, s))
	return false
}

// answerAgain sends the client our SYN+ACK again, and says whether to do so once
// more. Under a flood the clients' own SYNs have to do.
func (e *Engine) answerAgain(s *conntrack.State, now time.Duration) bool {
	h := &s.Handshake
	if e.total.on.Load() {
		return false
	}
	e.decide().emit(clientSYNACK(s))
	if int(h.Tries) == len(synackRetries) {
		return false
	}
	h.Due = now + synackRetries[h.Tries] - synackRetries[h.Tries-1]
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
	proved := p.Flags&(packet.ACK|packet.SYN) == packet.ACK && p.Ack == h.ISN+1
	expected := p.Seq == h.Client+1 || p.Seq == h.Client // its ACK, or a probe if that was lost
	if !proved || !expected {
		v.refuseOlder()
		return
	}
	switch v.admit() {
	case admitted:
		v.heard()
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

// heard notes what the server will have to know of the client's last segment.
func (v *visit) heard() {
	h := &v.state.Handshake
	h.Window = v.p.Window
	if v.p.Options.HasTimestamp {
		h.TSVal = v.p.Options.TSVal
	}
}

// ask sends the server its first SYN.
func (v *visit) ask() {
	h := &v.state.Handshake
	h.Tries, h.Due = 1, v.now+synRetries[0]
	v.d.emit(serverSYN(v.state, offer(v.state)))
}

// tryAgain sends the server its SYN again, or gives up, and says whether to wait
// on.
func (e *Engine) tryAgain(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	h := &s.Handshake
	if int(h.Tries) == len(synRetries) {
		e.abandon(sh, s)
		return false
	}
	e.decide().emit(serverSYN(s, offer(s)))
	h.Due = now + synRetries[h.Tries] - synRetries[h.Tries-1]
	h.Tries++
	return true
}

// serverSYN is the SYN for the server, in the client's name.
func serverSYN(s *conntrack.State, offer packet.Options) packet.Segment {
	return synproxy.SYN(s.Tuple, s.Handshake.Client, uint16(min(s.Src.MaxWin, 0xffff)), offer)
}

// offer is what a SYN offers the server: what the client was told that it has.
func offer(s *conntrack.State) packet.Options {
	o := s.Handshake.Offered()
	o.HasWScale = s.Handshake.Told
	return o
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
		v.askAnew(synproxy.Reset(v.state.Tuple, p.Ack))
	}
}

// askAnew clears what the server has in mind, and sends it another SYN. One that
// answers garbage is sent no more than a few; the timer ends the handshake.
func (v *visit) askAnew(reset packet.Segment) {
	h := &v.state.Handshake
	if h.Again == maxAgain {
		return
	}
	h.Again++
	v.d.emit(reset)
	v.d.emit(serverSYN(v.state, offer(v.state)))
}

func (v *visit) serverRefuses() {
	v.d.emit(resetClient(v.state))
	v.remove()
}

// serverAnswers learns from the SYN+ACK and joins the two handshakes, if both
// sides will read each other's windows and timestamps right.
func (v *visit) serverAnswers() {
	s, h, answer := v.state, &v.state.Handshake, v.p.Options
	scales := answer.HasWScale && !h.Told
	stamps := answer.HasTimestamp && !h.Stamps
	if scales || stamps {
		// It answers what it was not asked: late, to the SYN that was to teach us;
		// it is to forget that. If it goes on, the timer ends the handshake.
		v.askAnew(resetServer(s))
		return
	}
	v.servers.Learn(s.Tuple, offer(s), answer, v.now)
	if answer.HasWScale == h.Told && (!h.Told || answer.WScale == h.ToldBy) && answer.HasTimestamp == h.Stamps {
		v.join()
		return
	}
	// It has changed, and the client cannot be told any more.
	v.d.emit(resetServer(s))
	v.d.emit(resetClient(s))
	v.remove()
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
	if h.Stamps {
		s.TSDiff = stamp(s) - p.Options.TSVal
	}
	s.Answer(p)
	s.Offloaded = true
	s.Refresh(v.now)
	v.d.Offload = v.create(s)
	v.d.Offload.Join = true
	// The kernel's entry learns both windows from these two. From any other
	// packet, a forged one too, it would take whatever that says.
	toServer := synproxy.ACK(s.Tuple, h.Client+1, h.ISN+1, h.Window)
	v.d.emitTracked(synproxy.Stamped(toServer, h.Stamps, h.TSVal, stamp(s)))
	toClient := synproxy.ACK(s.Tuple.Reverse(), p.Seq+1, h.Client+1, scaleDown(p.Window, s.Dst.WScale))
	v.d.emitTracked(synproxy.Stamped(toClient, h.Stamps, p.Options.TSVal, h.TSVal))
}

// create is the order for the kernel's entry of an established connection.
func (e *Engine) create(s *conntrack.State) packet.Offload {
	return packet.Offload{
		Op: packet.OffloadCreate, Tuple: s.Tuple, Timeout: e.lifetime(s),
		SeqDiff: s.SeqDiff, TSDiff: s.TSDiff, ServerISN: s.Dst.SeqLo - 1,
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
