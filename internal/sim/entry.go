package sim

import (
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// entry is what the gateway's kernel knows of a connection.
type entry struct {
	original packet.Tuple
	connmark packet.Mark
	diff     seqnum.Size     // added to the server's numbers
	stamps   uint32          // and to its timestamps
	maxAck   [2]seqnum.Value // the highest number each side has acknowledged, as that side says it
	acked    [2]bool
	maxEnd   [2]seqnum.Value // the end of what each side has sent
	sent     [2]bool
	syn      seqnum.Value // of a SYN inside the connection,
	again    bool         // if that was the last packet
	answered bool         // the server's answer has passed because it was granted,
	answer   seqnum.Value // and had this number
	fin      [2]bool      // each side has sent one that fits
	reset    bool         // a side has sent a RST with the exact number
	last     time.Duration
}

// side is 0 for a packet of the client's, 1 for one of the server's.
func (e *entry) side(p *packet.Packet) int {
	if p.Tuple == e.original {
		return 0
	}
	return 1
}

// track is conntrack's view of a packet, false if it is outside the window.
// Before the other side has acknowledged anything every number will do.
func (e *entry) track(p *packet.Packet) bool {
	side := e.side(p)
	ack := p.Ack // all in the numbers their sender uses
	if side == 0 {
		ack = ack.Sub(e.diff)
	}
	e.again = false
	if side == 1 && e.connmark == packet.MarkOpening && !e.sent[1] {
		return true // no answer to a SYN: ignored, and passed
	}
	other := e.maxAck[1-side]
	known := e.acked[1-side]
	if known && (p.Seq+1).LessThan(other) && p.Flags.Has(packet.RST) || known && other.Add(65535).LessThan(p.Seq) {
		return false
	}
	if p.Flags.Has(packet.ACK) && e.sent[1-side] && (e.maxEnd[1-side] + 1).LessThan(ack) {
		return false // it acknowledges what was never sent, and is no answer to a keepalive
	}
	if e.sent[side] && !e.near(side, p.Seq) {
		return false
	}
	if p.Flags.Has(packet.RST) {
		behind := e.sent[side] && p.Seq == e.maxEnd[side] // all that its sender has said
		e.reset = e.reset || !known || p.Seq == other || behind
		return true
	}
	e.fin[side] = e.fin[side] || p.Flags.Has(packet.FIN)
	if p.Flags.Has(packet.ACK) && (!e.acked[side] || e.maxAck[side].LessThan(ack)) {
		e.maxAck[side], e.acked[side] = ack, true
	}
	if !e.sent[side] || e.maxEnd[side].LessThan(p.End()) {
		e.maxEnd[side], e.sent[side] = p.End(), true
	}
	return true
}

// admitted says whether the hooks copy what closes the connection, and do not queue it.
func (e *entry) admitted() bool { return e.connmark&packet.MarkCopied != 0 }

// passes says whether the hooks let a packet that fits pass without a verdict.
func (e *entry) passes(p *packet.Packet) bool {
	payload := !p.Flags.Any(packet.FIN|packet.RST) && e.connmark&packet.MarkSteer != packet.MarkTrack
	return payload || e.admitted() && !p.Flags.Has(packet.RST)
}

// copies says whether the hooks copy a packet that passes, and notes what they do: a FIN
// of an admitted connection, and what comes next, or all that comes after both.
func (e *entry) copies(p *packet.Packet) bool {
	closing := e.connmark&packet.MarkCopies == packet.MarkClosing
	switch {
	case !e.admitted():
		return false
	case !p.Flags.Has(packet.FIN):
		if e.connmark&packet.MarkClosed != packet.MarkClosed {
			e.connmark &^= packet.MarkClosing ^ packet.MarkClear
		}
		return closing
	case e.side(p) == 0:
		e.connmark |= packet.MarkClosing | packet.MarkClientClosed
	default:
		e.connmark |= packet.MarkClosing | packet.MarkServerClosed
	}
	return true
}

// over says whether a SYN begins another connection in place of the entry's.
func (e *entry) over() bool { return e.reset || e.fin[0] && e.fin[1] }

// answers says whether a SYN+ACK acknowledges what the client has said.
func (e *entry) answers(p *packet.Packet) bool {
	return e.near(0, p.Ack) && !e.maxEnd[0].LessThan(p.Ack)
}

// shows is what a query finds.
func (e *entry) shows() packet.Kernel {
	switch {
	case e == nil:
		return packet.KernelAbsent
	case e.reset:
		return packet.KernelReset
	case e.fin[0] && e.fin[1]:
		return packet.KernelClosed
	case e.fin[0] || e.fin[1]:
		return packet.KernelClosing
	}
	return packet.KernelPresent
}

// trackSYN is conntrack's view of a SYN or SYN+ACK. Inside a connection it passes
// and changes nothing; but a SYN+ACK that answers a SYN which has just passed begins
// the entry anew (nf_conntrack_tcp_packet).
func (e *entry) trackSYN(p *packet.Packet, begins bool) {
	side := e.side(p)
	switch {
	case begins:
	case p.IsSYN():
		e.syn, e.again = p.Seq, true
		return
	case p.IsSYNACK() && e.again && p.Ack == e.syn+1:
		e.acked, e.fin, e.reset = [2]bool{}, [2]bool{}, false
		e.maxEnd[1-side], e.sent[1-side] = p.Ack, true
	case e.sent[side] && e.acked[side]: // it has answered
		return
	}
	e.again = false
	e.maxAck[side], e.acked[side] = p.Ack, p.Flags.Has(packet.ACK)
	if side == 0 {
		e.maxAck[side] = p.Ack.Sub(e.diff)
	}
	e.maxEnd[side], e.sent[side] = p.End(), true
}

// near says whether a number is not far from all that a side has sent so far.
func (e *entry) near(side int, seq seqnum.Value) bool {
	const far = 1 << 17
	return e.sent[side] && (seq.Size(e.maxEnd[side]) <= far || e.maxEnd[side].Size(seq) <= far)
}
