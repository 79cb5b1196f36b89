package integration

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// rawWire puts packets onto one end of a link, whatever is in them.
type rawWire struct {
	fd int
	to unix.SockaddrLinklayer
}

// linkEnd is an interface of a namespace.
type linkEnd struct {
	ns   *Namespace
	name string
}

func (e linkEnd) link() (netlink.Link, error) {
	k, err := e.ns.nl.LinkByName(e.name)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", e.name, e.ns.Name, err)
	}
	return k, nil
}

// openRaw opens a link at one end, for packets to the other. The caller closes it.
func openRaw(from, to linkEnd, f Family) (*rawWire, error) {
	near, err := from.link()
	if err != nil {
		return nil, err
	}
	far, err := to.link()
	if err != nil {
		return nil, err
	}
	protocol := uint16(unix.ETH_P_IP)
	if f == IPv6 {
		protocol = unix.ETH_P_IPV6
	}
	w := &rawWire{to: unix.SockaddrLinklayer{Protocol: protocol<<8 | protocol>>8, Ifindex: near.Attrs().Index, Halen: 6}}
	copy(w.to.Addr[:], far.Attrs().HardwareAddr)
	err = from.ns.Do(func() (err error) {
		// Protocol 0: to send only.
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	return w, nil
}

func (w *rawWire) close() error { return unix.Close(w.fd) }

func (w *rawWire) send(b []byte) error {
	if err := unix.Sendto(w.fd, b, 0, &w.to); err != nil {
		return fmt.Errorf("send %d octets: %w", len(b), err)
	}
	return nil
}

// rawPacket is an IP packet with TCP. Its zero value, with addresses, is a
// good SYN without options.
type rawPacket struct {
	src, dst   netip.AddrPort
	seq, ack   uint32 // seq 0: 1000
	ttl        byte   // 0: 64
	flags      byte
	offset     byte   // of the data, in words; 0: what the options take
	options    []byte // of TCP, a multiple of 4
	payload    []byte
	badSum     bool   // a wrong TCP checksum
	cut        int    // octets of the TCP segment to leave out at its end, before the IP header is made
	lost       int    // octets of the whole packet to leave out at its end, after that
	ipOptions  []byte // IPv4
	fragment   uint16 // IPv4: the field of flags and offset
	extensions []byte // IPv6: the chain, whose last header names TCP
	first      byte   // IPv6: the first header of the chain
}

// TCP's flags.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
)

func (p rawPacket) octets() []byte {
	segment := p.segment()
	segment = segment[:len(segment)-p.cut]
	b := p.ipv4(segment)
	if p.src.Addr().Is6() {
		b = p.ipv6(segment)
	}
	return b[:len(b)-p.lost]
}

func (p rawPacket) segment() []byte {
	b := make([]byte, 20, 20+len(p.options)+len(p.payload))
	binary.BigEndian.PutUint16(b, p.src.Port())
	binary.BigEndian.PutUint16(b[2:], p.dst.Port())
	binary.BigEndian.PutUint32(b[4:], cmp.Or(p.seq, 1000))
	binary.BigEndian.PutUint32(b[8:], p.ack)
	b[12] = p.offset << 4
	if p.offset == 0 {
		b[12] = byte(5+len(p.options)/4) << 4
	}
	b[13] = p.flags
	binary.BigEndian.PutUint16(b[14:], 64240)
	b = append(append(b, p.options...), p.payload...)
	pseudo := append(p.src.Addr().AsSlice(), p.dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, byte(len(b)>>8), byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], internetSum(append(pseudo, b...)))
	if p.badSum {
		b[16] ^= 0x55
	}
	return b
}

func (p rawPacket) ipv4(segment []byte) []byte {
	b := make([]byte, 20)
	b = append(b, p.ipOptions...)
	b[0] = 0x40 | byte(len(b)/4)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(segment)))
	binary.BigEndian.PutUint16(b[4:], p.src.Port()) // an identification that differs from case to case
	binary.BigEndian.PutUint16(b[6:], p.fragment)
	b[8], b[9] = cmp.Or(p.ttl, 64), unix.IPPROTO_TCP
	if p.src.Addr().Is4() {
		copy(b[12:], p.src.Addr().AsSlice())
		copy(b[16:], p.dst.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(b[10:], internetSum(b))
	return append(b, segment...)
}

func (p rawPacket) ipv6(segment []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, unix.IPPROTO_TCP, cmp.Or(p.ttl, 64)
	if len(p.extensions) > 0 {
		b[6] = p.first
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.extensions)+len(segment)))
	copy(b[8:], p.src.Addr().AsSlice())
	copy(b[24:], p.dst.Addr().AsSlice())
	return append(append(b, p.extensions...), segment...)
}

// internetSum is the checksum of RFC 1071.
func internetSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
