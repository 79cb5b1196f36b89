package inject

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"nfqfw/internal/mmsg"
	"nfqfw/internal/packet"
	"nfqfw/internal/wire"
)

// control is the control message that tells a segment's source: struct cmsghdr,
// then struct in_pktinfo or in6_pktinfo, with room for the longer one.
type control struct {
	header unix.Cmsghdr
	info   [24]byte
}

// sourceOffset is where struct in_pktinfo has ipi_spec_dst; struct in6_pktinfo
// begins with the address.
const sourceOffset = 4

// batch is the segments of one address family that wait to be sent, with
// everything sendmmsg needs, laid out once.
type batch struct {
	fd       int // -1: the family is missing
	count    int
	headers  []mmsg.Header
	vectors  []unix.Iovec
	buffers  [][]byte
	addrs    []unix.RawSockaddrInet6 // room for either family's
	controls []control
	to       []packet.Tuple // for the log
}

// init makes a batch of n segments for the socket fd of a family.
func (b *batch) init(fd, family, n int) {
	*b = batch{
		fd: fd, headers: make([]mmsg.Header, n), vectors: make([]unix.Iovec, n), buffers: make([][]byte, n),
		addrs: make([]unix.RawSockaddrInet6, n), controls: make([]control, n), to: make([]packet.Tuple, n),
	}
	const size = wire.MaxSegmentLen
	memory := make([]byte, n*size)
	for i := range n {
		b.buffers[i] = memory[i*size : i*size : (i+1)*size]
		b.vectors[i].Base = &memory[i*size]
		h := &b.headers[i].Msghdr
		h.Iov = &b.vectors[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.addrs[i]))
		h.Control = (*byte)(unsafe.Pointer(&b.controls[i]))
		h.SetControllen(b.controls[i].init(family))
	}
}

// init fills in all but the address, and returns the length of the message, less
// the padding behind it: the kernel copies as much to its stack, and allocates for
// more (net/socket.c: ____sys_sendmsg).
func (c *control) init(family int) int {
	size := unix.SizeofInet4Pktinfo
	c.header.Level, c.header.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
	if family == unix.AF_INET6 {
		size = unix.SizeofInet6Pktinfo
		c.header.Level, c.header.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	}
	c.header.SetLen(unix.CmsgLen(size))
	return unix.CmsgLen(size)
}

func (b *batch) full() bool { return b.count == len(b.buffers) }

// add encodes a segment behind those that wait already. There must be room.
func (b *batch) add(s *packet.Segment) {
	i := b.count
	b.count++
	octets := wire.Append(b.buffers[i], s)
	b.vectors[i].SetLen(len(octets))
	b.to[i] = s.Tuple
	b.setAddr(i, &s.Tuple)
}

// setAddr fills in where to, and from where: the header that a segment brings
// along tells the kernel's choice of a route nothing, which policies may make
// depend on the source. The port stays 0: a raw socket takes it for a protocol
// number.
func (b *batch) setAddr(i int, t *packet.Tuple) {
	h := &b.headers[i].Msghdr
	if t.Is4() {
		a := (*unix.RawSockaddrInet4)(unsafe.Pointer(&b.addrs[i]))
		a.Family = unix.AF_INET
		copy(a.Addr[:], t.Dst[12:])
		copy(b.controls[i].info[sourceOffset:], t.Src[12:])
		h.Namelen = unix.SizeofSockaddrInet4
		return
	}
	b.addrs[i].Family = unix.AF_INET6
	b.addrs[i].Addr = t.Dst
	copy(b.controls[i].info[:], t.Src[:])
	h.Namelen = unix.SizeofSockaddrInet6
}

// send gives the kernel the segments from the i-th on, and says how many it
// took. An error is about the i-th.
func (b *batch) send(i int) (int, unix.Errno) {
	if b.fd < 0 {
		return 0, unix.EAFNOSUPPORT
	}
	return mmsg.Send(b.fd, b.headers[i:b.count])
}

// waitTime is how long a flush waits for room, once.
const waitTime = time.Millisecond

// wait waits until the socket has room again, or for waitTime. Out of memory
// (ENOBUFS) shows as room at once: then it sleeps.
func (b *batch) wait() {
	fds := [1]unix.PollFd{{Fd: int32(b.fd), Events: unix.POLLOUT}}
	began := time.Now()
	_, _ = unix.Poll(fds[:], int(waitTime/time.Millisecond))
	if time.Since(began) < waitTime/10 {
		time.Sleep(waitTime / 10)
	}
}
