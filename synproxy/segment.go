package synproxy

import (
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// The largest segment a host must be assumed to take that says nothing (RFC
// 9293 section 3.7.1).
const (
	defaultMSS4 = 536
	defaultMSS6 = 1220
)

// ToldOptions are the options a client's SYN is answered with. Before a server
// is known it is not said to scale its windows, or to know timestamps, or to take
// larger segments than every host does: that could not be taken back.
func ToldOptions(t *packet.Tuple, client, server *packet.Options, known bool) (told packet.Options) {
	told.MSS, told.SACKPermitted = defaultMSS6, client.SACKPermitted
	if t.Is4() {
		told.MSS = defaultMSS4
	}
	if !known {
		return told
	}
	if server.MSS != 0 {
		told.MSS = server.MSS
	}
	told.SACKPermitted = client.SACKPermitted && server.SACKPermitted
	told.HasWScale = client.HasWScale && server.HasWScale
	if told.HasWScale {
		told.WScale = server.WScale
	}
	told.HasTimestamp = client.HasTimestamp && server.HasTimestamp
	return told
}

// SYNACK answers the client's SYN in the server's name. Its window is zero, so
// that the client sends nothing before the server can take it.
func SYNACK(client packet.Tuple, isn, clientISN seqnum.Value, told packet.Options) packet.Segment {
	return packet.Segment{
		Tuple: client.Reverse(), Seq: isn, Ack: clientISN + 1, Flags: packet.SYN | packet.ACK, Options: told,
	}
}

// StampShiftBits is how many of a Stamp's bits are the client's window shift.
const StampShiftBits = 4

const stampShiftMask = 1<<StampShiftBits - 1

// Stamp is the timestamp that a SYN+ACK tells: its initial number, with the
// client's window shift in the four lowest bits. The client's next segment brings it
// back, so that nothing need be remembered, and the shift exactly, for which a cookie
// has no room. The kernel is told the difference to the server's clock when the
// server has shown it.
func Stamp(isn seqnum.Value, client packet.Options) uint32 {
	return uint32(isn)&^stampShiftMask | uint32(client.WScale)
}

// Shift is the window shift in a Stamp of this initial number, if echo is one: a
// client that has heard of the server's clock since repeats that.
func Shift(isn seqnum.Value, echo uint32) (shift uint8, ok bool) {
	shift = uint8(echo & stampShiftMask)
	return shift, uint32(isn)&^stampShiftMask == echo&^stampShiftMask && shift <= packet.MaxWScale
}

// SYN asks the server in the client's name, with the client's own number.
func SYN(client packet.Tuple, clientISN seqnum.Value, window uint16, offer packet.Options) packet.Segment {
	return packet.Segment{Tuple: client, Seq: clientISN, Flags: packet.SYN, Window: window, Options: offer}
}

// ACK is an acknowledgment from the source of t.
func ACK(t packet.Tuple, seq, ack seqnum.Value, window uint16) packet.Segment {
	return packet.Segment{Tuple: t, Seq: seq, Ack: ack, Flags: packet.ACK, Window: window}
}

// Stamped adds timestamps to a segment, if on (RFC 7323 section 3.2: once agreed
// on, every segment has them).
func Stamped(s packet.Segment, on bool, val, echo uint32) packet.Segment {
	s.Options.HasTimestamp, s.Options.TSVal, s.Options.TSEcr = on, val, echo
	return s
}

// Reset aborts the connection at the destination of t. The receiver obeys it
// only if seq is exactly the number it expects next (RFC 5961 section 3.2).
func Reset(t packet.Tuple, seq seqnum.Value) packet.Segment {
	return packet.Segment{Tuple: t, Seq: seq, Flags: packet.RST}
}

// Probe asks the destination of t whether it holds the connection: if not, its
// RST has the sequence number ack; if it does, it answers with an ACK (RFC 9293
// section 3.5.2, and 3.10.7.4 on an unacceptable segment). The segment is one
// from before the handshake, old that is, unless gigabytes have passed since. Its
// FIN has Linux answer always, and not only twice a second (tcp_invalid_ratelimit).
func Probe(t packet.Tuple, isn, ack seqnum.Value) packet.Segment {
	return packet.Segment{Tuple: t, Seq: isn - 1, Ack: ack, Flags: packet.FIN | packet.ACK}
}

// Refusal resets the sender of p, as a closed port does (RFC 9293 section
// 3.5.2): with the number it acknowledges, or acknowledging what it sent.
func Refusal(p *packet.Packet) packet.Segment {
	if p.Flags.Has(packet.ACK) {
		return Reset(p.Tuple.Reverse(), p.Ack)
	}
	return packet.Segment{Tuple: p.Tuple.Reverse(), Ack: p.End(), Flags: packet.RST | packet.ACK}
}
