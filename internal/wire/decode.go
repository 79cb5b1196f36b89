// Package wire turns bytes into packets and segments into bytes.
//
// It is the only importer of gopacket, so that the library can be swapped.
// Decoding and encoding allocate nothing, on no path: an attacker chooses the
// packets, and garbage made by malformed ones would be theirs to choose too.
// gopacket allocates when it fails and when it meets IPv6 options, so every
// header is checked before gopacket is shown it.
//
// What cannot be classified is refused with a packet.Reason. There is no
// reassembly: the kernel does it before the hooks, so a fragment is an error.
// Payload is measured and never looked at, apart from its checksum.
package wire

import (
	"encoding/binary"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// Sizes of the fixed parts of the headers, in octets.
const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20
	protoTCP      = 6
)

// Decoder decodes packets one after the other. It is reused, and not safe for
// concurrent use. It refers to the bytes of the last packet until the next.
type Decoder struct {
	ip4 layers.IPv4
	ip6 layers.IPv6
	tcp layers.TCP

	head    [ipv6HeaderLen]byte // the fixed IP header, as gopacket is shown it
	segment []byte              // the captured part of the TCP segment
	length  int                 // octets of the TCP segment, captured or not
}

// NewDecoder makes a Decoder.
func NewDecoder() *Decoder {
	d := &Decoder{}
	// One option takes at least one octet, so append never has to grow this.
	d.tcp.Options = make([]layers.TCPOption, 0, maxOptionsLen)
	return d
}

// Decode reads an IPv4 or IPv6 packet with TCP from b into p.
//
// The queue copies only the beginning of a packet: total is the length of the
// whole packet in octets, or 0 if b is all of it. Missing payload is no error,
// a missing header is. The answer is packet.ReasonMatch, or why p is not valid.
//
// Decode sets all of p that a packet says of itself. It leaves alone what only
// the kernel knows: InDev, InName, Conn and Kernel.
func (d *Decoder) Decode(b []byte, total int, p *packet.Packet) packet.Reason {
	if total < len(b) {
		total = len(b)
	}
	r := d.decodeIP(b, total, p)
	if r == packet.ReasonMatch {
		r = d.decodeTCP(p)
	}
	if r != packet.ReasonMatch {
		d.segment, d.length = nil, 0
	}
	return r
}

func (d *Decoder) decodeIP(b []byte, total int, p *packet.Packet) packet.Reason {
	if len(b) == 0 {
		return packet.ReasonShort
	}
	switch b[0] >> 4 {
	case 4:
		return d.decodeIPv4(b, total, p)
	case 6:
		return d.decodeIPv6(b, total, p)
	}
	return packet.ReasonNotTCP
}

func (d *Decoder) decodeTCP(p *packet.Packet) packet.Reason {
	if len(d.segment) < tcpHeaderLen {
		return packet.ReasonShort
	}
	hlen := int(d.segment[12]>>4) * 4
	if hlen < tcpHeaderLen || hlen > d.length {
		return packet.ReasonBadOffset
	}
	if hlen > len(d.segment) {
		return packet.ReasonShort
	}
	flags := packet.Flags(d.segment[13])
	if !normal(flags) {
		return packet.ReasonNormalize
	}
	if !walkable(d.segment[tcpHeaderLen:hlen]) {
		return packet.ReasonTCPOption
	}
	if d.tcp.DecodeFromBytes(d.segment, gopacket.NilDecodeFeedback) != nil {
		return packet.ReasonShort // not reached: all that gopacket refuses was refused above
	}
	p.SrcPort, p.DstPort = uint16(d.tcp.SrcPort), uint16(d.tcp.DstPort)
	p.Seq, p.Ack = seqnum.Value(d.tcp.Seq), seqnum.Value(d.tcp.Ack)
	p.Window, p.Flags = d.tcp.Window, flags
	p.PayloadLen = uint32(d.length - hlen)
	p.Options = readOptions(d.tcp.Options, d.tcp.SYN)
	return packet.ReasonMatch
}

// normal says whether a TCP could have sent these flags: pf's pf_normalize_tcp,
// which also wants ACK beside FIN, PSH and URG. Unlike pf it refuses SYN+FIN
// instead of taking the FIN away.
func normal(f packet.Flags) bool {
	if f.Has(packet.SYN) && f.Any(packet.FIN|packet.RST) {
		return false
	}
	if !f.Any(packet.SYN | packet.ACK | packet.RST) {
		return false
	}
	return f.Has(packet.ACK) || !f.Any(packet.FIN|packet.PSH|packet.URG)
}

// Verify checks the TCP checksum of the packet that Decode has just accepted,
// whose bytes must not have changed: packet.ReasonProtoCksum if it is wrong.
//
// A packet of which not all was captured passes. Ask only when the kernel has
// not verified the checksum itself and has already filled it in: a segment from
// this machine is queued before its checksum is computed.
func (d *Decoder) Verify() packet.Reason {
	if len(d.segment) < d.length || d.length == 0 {
		return packet.ReasonMatch
	}
	var sum uint64
	if d.head[0]>>4 == 4 {
		sum = addSum(uint64(protoTCP)+uint64(d.length), d.head[12:20])
	} else {
		sum = addSum(uint64(protoTCP)+uint64(d.length), d.head[8:40])
	}
	if foldSum(addSum(sum, d.segment)) != 0xffff {
		return packet.ReasonProtoCksum
	}
	return packet.ReasonMatch
}

// addSum adds b to a running ones' complement sum (RFC 1071), 32 bits at a
// time: 64 bits hold the carries of any packet.
func addSum(sum uint64, b []byte) uint64 {
	for len(b) >= 4 {
		sum += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.BigEndian.Uint16(b)) << 16
		b = b[2:]
		if len(b) == 1 {
			sum += uint64(b[0]) << 8
		}
		return sum
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 24
	}
	return sum
}

// foldSum brings a sum down to 16 bits.
func foldSum(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}
