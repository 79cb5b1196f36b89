// Package packet holds what the other packages pass around: a TCP packet as
// the kernel showed it, the segment to send, the verdict and the reason, and
// the order for the kernel's own connection table.
//
// Everything here is a flat value. Nothing points into the bytes a packet was
// decoded from, so that buffers can be reused. The package knows no bytes
// (internal/wire does), no policy and no state.
package packet

import "nfqfw/internal/seqnum"

// Flags are the control bits of a TCP header (RFC 9293 section 3.1), in wire order.
type Flags uint8

// The control bits.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Has says whether all bits of f are set.
func (g Flags) Has(f Flags) bool { return g&f == f }

// Any says whether any bit of f is set.
func (g Flags) Any(f Flags) bool { return g&f != 0 }

var flagLetters = [8]byte{'F', 'S', 'R', 'P', 'A', 'U', 'E', 'W'}

// String shows flags by pf's letters, "SA" for SYN+ACK.
func (g Flags) String() string {
	var b []byte
	for i, c := range flagLetters {
		if g&(1<<i) != 0 {
			b = append(b, c)
		}
	}
	return string(b)
}

// MaxWScale is the largest window shift a peer may use (RFC 7323 section 2.3).
const MaxWScale = 14

// Options are the TCP options the firewall understands.
type Options struct {
	MSS           uint16 // octets; 0: absent
	WScale        uint8  // shift, at most MaxWScale; meaningful if HasWScale
	HasWScale     bool
	SACKPermitted bool
	HasTimestamp  bool
	FastOpen      bool   // the segment asks for TCP Fast Open, or uses it (RFC 7413)
	TSVal, TSEcr  uint32 // meaningful if HasTimestamp
}

// Conn is what the kernel's conntrack made of a packet before it was queued.
// The hooks tell it by packet mark, as NFQUEUE itself does not.
type Conn uint8

// What conntrack can say.
const (
	ConnNone        Conn = iota // queued before conntrack (raw table): SYN and SYN+ACK
	ConnEstablished             // belongs to an entry of the kernel's
	ConnOpening                 // belongs to one whose handshake is being watched
	ConnNew                     // would make a new entry: none existed
	ConnInvalid                 // fits no entry: outside the window, or there is none
)

// Kernel is what the kernel's own entry of a connection shows when asked.
type Kernel uint8

// What the kernel's entry can show.
const (
	KernelNotAsked Kernel = iota
	KernelAbsent          // there is no entry
	KernelPresent         // there is one, and neither side has closed the connection
	KernelClosing         // there is one, and one side has sent a FIN that fits
	KernelClosed          // there is one, and both sides have
	KernelReset           // there is one, and a side has sent a RST with the exact number
)

// Present says whether there is an entry.
func (k Kernel) Present() bool { return k >= KernelPresent }

// Packet is a decoded TCP packet. It is reused from packet to packet.
type Packet struct {
	Tuple
	Seq, Ack   seqnum.Value
	Window     uint16 // as in the header, not scaled
	Flags      Flags
	PayloadLen uint32 // octets
	Options    Options

	InDev  uint32 // interface index, 0: none
	InName string // its name
	InRoom uint16 // the largest MSS whose segments it has room for; 0: not known
	Conn   Conn
	Kernel Kernel
	Copied bool // the kernel has let it pass, and tells
	Noted  bool // all that has passed before it has been taken note of

	Admitted bool  // and by that its connection,
	Grant    Grant // by this grant
}

// Grant names what was granted to a client (internal/grant) until it is taken back: its
// slot, and how often that of the slot was taken back before.
type Grant struct{ Slot, Generation uint32 }

// End is the sequence number after the packet: payload, SYN and FIN included.
func (p *Packet) End() seqnum.Value {
	end := p.Seq.Add(seqnum.Size(p.PayloadLen))
	if p.Flags.Has(SYN) {
		end++
	}
	if p.Flags.Has(FIN) {
		end++
	}
	return end
}

// IsSYN says whether the packet opens a connection: pf's "flags S/SA".
func (p *Packet) IsSYN() bool { return p.Flags&(SYN|ACK|RST|FIN) == SYN }

// OpensFast says whether a SYN could reach the application before the handshake
// is done: it carries data, or a Fast Open cookie, which may do without.
func (p *Packet) OpensFast() bool { return p.PayloadLen > 0 || p.Options.FastOpen }

// IsSYNACK says whether the packet answers a SYN.
func (p *Packet) IsSYNACK() bool { return p.Flags&(SYN|ACK|RST|FIN) == SYN|ACK }

// Segment is a TCP packet without payload for us to send, in the name of its source.
type Segment struct {
	// Tracked has the kernel's entry take note of the segment, and translate it:
	// its numbers are those that its source would use.
	Tracked bool
	Tuple
	Seq, Ack seqnum.Value
	Window   uint16
	Flags    Flags
	Options  Options
}
