package packet

import "net/netip"

// Addr is an IPv6 address, or an IPv4 address mapped into IPv6 (RFC 4291
// section 2.5.5.2). Unlike netip.Addr it holds no pointer, so that a table of
// millions is nothing to the garbage collector.
type Addr [16]byte

// AddrFrom converts; the zone of a scoped address is lost.
func AddrFrom(a netip.Addr) Addr { return a.As16() }

// Netip converts back, unmapping IPv4.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// mapped is what IPv4 addresses begin with.
var mapped = [12]byte{10: 0xff, 11: 0xff}

// Is4 says whether the address is an IPv4 one.
func (a *Addr) Is4() bool { return [12]byte(a[:12]) == mapped }

// Tuple names the two ends of a TCP connection in one direction, that of a
// packet or that in which the connection was opened. It is packed, comparable
// and pointer-free, to be a map key.
type Tuple struct {
	Src, Dst         Addr
	SrcPort, DstPort uint16
}

// TupleFrom builds a tuple from the addresses and ports of its ends.
func TupleFrom(src, dst netip.AddrPort) Tuple {
	return Tuple{Src: AddrFrom(src.Addr()), Dst: AddrFrom(dst.Addr()), SrcPort: src.Port(), DstPort: dst.Port()}
}

// Source is the address and port of the sender.
func (t Tuple) Source() netip.AddrPort { return netip.AddrPortFrom(t.Src.Netip(), t.SrcPort) }

// Destination is the address and port of the receiver.
func (t Tuple) Destination() netip.AddrPort { return netip.AddrPortFrom(t.Dst.Netip(), t.DstPort) }

// Is4 says whether the tuple is of IPv4.
func (t *Tuple) Is4() bool { return t.Src.Is4() }

// Reverse is the tuple of the opposite direction.
func (t Tuple) Reverse() Tuple {
	return Tuple{Src: t.Dst, Dst: t.Src, SrcPort: t.DstPort, DstPort: t.SrcPort}
}

// Answers says whether the two are opposite directions of a connection.
func (t *Tuple) Answers(o *Tuple) bool {
	return t.SrcPort == o.DstPort && t.DstPort == o.SrcPort && t.Src == o.Dst && t.Dst == o.Src
}

// String shows the tuple the way an operator reads it, source first.
func (t Tuple) String() string { return t.Source().String() + " > " + t.Destination().String() }
