package wire

import (
	"encoding/binary"

	"nfqfw/internal/packet"
)

// MaxSegmentLen is the most that Append adds, in octets: IPv6, TCP and all options.
const MaxSegmentLen = ipv6HeaderLen + tcpHeaderLen + maxOptionsLen

// hopLimit is the TTL or hop limit of what we send.
const hopLimit = 64

// Append adds s to dst as an IP packet with checksums, and returns the longer
// slice. It allocates nothing if dst has room for MaxSegmentLen octets.
//
// An IPv4 packet has DF set, so that its id may be 0 (RFC 6864). MSS, window
// scale and SACK-permitted are written on a SYN only, where they mean anything;
// FastOpen is never.
func Append(dst []byte, s *packet.Segment) []byte {
	start := len(dst)
	var pseudo []byte // the addresses, for the checksum
	if s.Is4() {
		dst = appendIPv4(dst, s)
		pseudo = dst[start+12 : start+20]
	} else {
		dst = appendIPv6(dst, s)
		pseudo = dst[start+8 : start+40]
	}
	sum := addSum(protoTCP, pseudo)
	tcp := len(dst)
	dst = appendTCP(dst, s)
	segment := dst[tcp:]
	sum = addSum(sum+uint64(len(segment)), segment)
	binary.BigEndian.PutUint16(segment[16:], ^foldSum(sum))
	if s.Is4() {
		finishIPv4(dst[start:])
	} else {
		binary.BigEndian.PutUint16(dst[start+4:], uint16(len(segment)))
	}
	return dst
}

// appendIPv4 writes a header whose length and checksum finishIPv4 fills in.
func appendIPv4(b []byte, s *packet.Segment) []byte {
	const dontFragment = 0x40
	b = append(b, 0x45, 0, 0, 0, 0, 0, dontFragment, 0, hopLimit, protoTCP, 0, 0)
	b = append(b, s.Src[12:]...)
	return append(b, s.Dst[12:]...)
}

func finishIPv4(b []byte) {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[10:], ^foldSum(addSum(0, b[:ipv4HeaderLen])))
}

// appendIPv6 writes a header whose payload length the caller fills in.
func appendIPv6(b []byte, s *packet.Segment) []byte {
	b = append(b, 0x60, 0, 0, 0, 0, 0, protoTCP, hopLimit)
	b = append(b, s.Src[:]...)
	return append(b, s.Dst[:]...)
}

// appendTCP writes the header and the options, with a checksum of 0.
func appendTCP(b []byte, s *packet.Segment) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, s.SrcPort)
	b = binary.BigEndian.AppendUint16(b, s.DstPort)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Seq))
	b = binary.BigEndian.AppendUint32(b, uint32(s.Ack))
	b = append(b, 0, byte(s.Flags), byte(s.Window>>8), byte(s.Window), 0, 0, 0, 0)
	b = appendOptions(b, &s.Options, s.Flags.Has(packet.SYN))
	b[start+12] = byte(len(b)-start) / 4 << 4
	return b
}
