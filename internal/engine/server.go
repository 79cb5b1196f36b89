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

// maxAgain is how often a server is sent a SYN again because its answer could not
// be used. An older connection's remains cost one, and each late answer to a SYN
// that offered something else.
const maxAgain = 4

// ask sends the server its first SYN.
func (v *visit) ask() {
	h := &v.state.Handshake
	h.Tries, h.Due = 1, v.now+synRetries[0]
	v.d.emit(serverSYN(v.state, offer(v.state)))
}

// tryAgain sends the server its SYN again, or gives up, and says whether to wait
// on.
func (e *Engine) tryAgain(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	if !postpone(&s.Handshake, synRetries[:], now) {
		e.abandon(sh, s)
		return false
	}
	e.decide().emit(serverSYN(s, offer(s)))
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
	s.Made, s.Anew = true, max(s.Src.State, s.Dst.State) > conntrack.Established
	return packet.Offload{
		Op: packet.OffloadCreate, Tuple: s.Tuple, Timeout: e.ruleOf(s).lifetimes.Timeouts[s.Timeout],
		SeqDiff: s.SeqDiff, TSDiff: s.TSDiff, ServerISN: s.Dst.SeqLo - 1,
		SrcWScale: s.Src.WScale, DstWScale: s.Dst.WScale, HasWScale: s.Src.HasWScale && s.Dst.HasWScale,
		SACKPermitted: s.Handshake.SACK, Mark: steer(s),
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
