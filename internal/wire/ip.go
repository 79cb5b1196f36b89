package wire

import (
	"encoding/binary"

	"github.com/google/gopacket"

	"nfqfw/internal/packet"
)

// IPv6 extension headers that can be walked (RFC 8200 section 4), as in
// ipv6_ext_hdr of the kernel.
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAuth     = 51
	extDest     = 60
)

// maxExtHeaders bounds the walk. RFC 8200 section 4.1 has a sender use each
// header once, destination options twice.
const maxExtHeaders = 8

// decodeIPv4 reads the IP header and finds the TCP segment.
func (d *Decoder) decodeIPv4(b []byte, total int, p *packet.Packet) packet.Reason {
	if len(b) < ipv4HeaderLen {
		return packet.ReasonShort
	}
	hlen := int(b[0]&0x0f) * 4
	size := int(binary.BigEndian.Uint16(b[2:]))
	if size == 0 {
		size = total // a super-packet of more than 65535 octets (the kernel's iph_totlen)
	}
	if hlen < ipv4HeaderLen || size < hlen || size > total || len(b) < hlen {
		return packet.ReasonShort
	}
	copy(d.head[:ipv4HeaderLen], b)
	d.head[0] = 0x45 // gopacket is not to parse the options: it refuses some that are valid
	binary.BigEndian.PutUint16(d.head[2:], ipv4HeaderLen)
	if d.ip4.DecodeFromBytes(d.head[:ipv4HeaderLen], gopacket.NilDecodeFeedback) != nil {
		return packet.ReasonShort // not reached
	}
	if d.ip4.Protocol != protoTCP {
		return packet.ReasonNotTCP
	}
	const moreFragments, offsetMask = 0x2000, 0x1fff
	if binary.BigEndian.Uint16(b[6:])&(moreFragments|offsetMask) != 0 {
		return packet.ReasonFragment
	}
	if hlen > ipv4HeaderLen && !walkable(b[ipv4HeaderLen:hlen]) {
		return packet.ReasonIPOption
	}
	p.Src, p.Dst = mapped(d.ip4.SrcIP), mapped(d.ip4.DstIP)
	d.setSegment(b, hlen, size)
	return packet.ReasonMatch
}

// mapped is an IPv4 address as packet.Addr holds it.
func mapped(b []byte) packet.Addr {
	a := packet.Addr{10: 0xff, 11: 0xff}
	copy(a[12:], b)
	return a
}

// setSegment notes where the TCP segment is: from offset to size, as far as captured.
func (d *Decoder) setSegment(b []byte, offset, size int) {
	d.length = size - offset
	d.segment = b[offset:min(len(b), size)]
}

// decodeIPv6 reads the IP header and the extension headers and finds the TCP segment.
func (d *Decoder) decodeIPv6(b []byte, total int, p *packet.Packet) packet.Reason {
	if len(b) < ipv6HeaderLen {
		return packet.ReasonShort
	}
	size := ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if size == ipv6HeaderLen {
		size = total // a jumbogram or a super-packet of more than 65535 octets
	}
	if size > total {
		return packet.ReasonShort
	}
	copy(d.head[:], b)
	d.head[5], d.head[6] = 1, protoTCP // gopacket is not to parse the extension headers: it allocates
	if d.ip6.DecodeFromBytes(d.head[:], gopacket.NilDecodeFeedback) != nil {
		return packet.ReasonShort // not reached
	}
	copy(p.Src[:], d.ip6.SrcIP)
	copy(p.Dst[:], d.ip6.DstIP)
	if p.Src.Is4() || p.Dst.Is4() {
		return packet.ReasonNormalize // would pass for IPv4; the kernel's ip6_rcv_core drops it as source, too
	}
	offset, reason := walkIPv6(b[:min(len(b), size)])
	if reason != packet.ReasonMatch {
		return reason
	}
	d.setSegment(b, offset, size)
	return packet.ReasonMatch
}

// walkIPv6 finds the TCP header behind the extension headers of b.
func walkIPv6(b []byte) (offset int, r packet.Reason) {
	next, offset := b[6], ipv6HeaderLen
	for range maxExtHeaders {
		if next == protoTCP {
			return offset, packet.ReasonMatch
		}
		if !isExtension(next, offset) {
			return 0, packet.ReasonNotTCP
		}
		if len(b) < offset+8 {
			return 0, packet.ReasonIPOption
		}
		// The two low bits before M are reserved; an atomic fragment (RFC 6946) is a whole packet.
		if next == extFragment && binary.BigEndian.Uint16(b[offset+2:])&^0x0006 != 0 {
			return 0, packet.ReasonFragment
		}
		size := extensionLen(next, b[offset+1])
		if next = b[offset]; len(b) < offset+size {
			return 0, packet.ReasonIPOption
		}
		offset += size
	}
	return 0, packet.ReasonIPOption
}

// isExtension says whether a header is one to walk over. Hop-by-hop options
// come first or not at all.
func isExtension(next byte, offset int) bool {
	switch next {
	case extHopByHop:
		return offset == ipv6HeaderLen
	case extRouting, extFragment, extAuth, extDest:
		return true
	}
	return false
}

// extensionLen is the length of an extension header in octets: its length field
// counts words of 8, for AH words of 4 (RFC 4302 section 2.2), for a fragment
// header nothing.
func extensionLen(next, field byte) int {
	switch next {
	case extFragment:
		return 8
	case extAuth:
		return (int(field) + 2) * 4
	}
	return (int(field) + 1) * 8
}
