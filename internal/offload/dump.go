package offload

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
)

// dumpSize is how many octets of a dump the kernel hands over at once, at most
// (net/netlink/af_netlink.c: netlink_recvmsg).
const dumpSize = 32 << 10

// Dump calls f for the entry of every TCP connection whose mark has these bits set.
// The tuple is of the original direction, and the Entry valid during the call.
//
// While the table changes, an entry may be missed or come twice.
func (t *Table) Dump(bits packet.Mark, f func(packet.Tuple, *Entry)) error {
	m := &t.out
	m.begin(msgGet, unix.NLM_F_DUMP, t.socket.next(), unix.AF_UNSPEC)
	m.uint32(ctaMark, uint32(bits))
	m.uint32(ctaMarkMask, uint32(bits))
	var e Entry
	err := t.socket.dump(m.end(), func(body []byte) {
		tuple, ok := parseTuple(body)
		if !ok {
			return
		}
		e = Entry{}
		e.parse(body)
		f(tuple, &e)
	})
	if err != nil {
		return fmt.Errorf("offload: dump: %w", err)
	}
	return nil
}

// dump sends a request and calls f with the body of every message of its answer.
func (s *socket) dump(request []byte, f func(body []byte)) error {
	if _, err := unix.Write(s.fd, request); err != nil {
		return os.NewSyscallError("send", err)
	}
	b := make([]byte, dumpSize)
	for {
		n, err := unix.Read(s.fd, b)
		if err == unix.EINTR || err == unix.ENOBUFS { // some answer was lost, and not necessarily this one
			continue
		}
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		if done, err := s.messages(b[:n], f); done || err != nil {
			return err
		}
	}
}

// messages calls f with the body of each message in b, and says whether the last of
// a dump was among them.
func (s *socket) messages(b []byte, f func(body []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		m, rest, ok := nfnetlink.Next(b)
		if !ok {
			return false, fmt.Errorf("message of %d octets claims to have %d", len(b), binary.NativeEndian.Uint32(b))
		}
		b = rest
		switch {
		case m.Sequence != s.sequence:
		case m.Type == unix.NLMSG_DONE, m.Type == unix.NLMSG_ERROR:
			return true, nfnetlink.Errno(m.Body)
		default:
			f(m.Body)
		}
	}
	return false, nil
}

// parseTuple reads the tuple of original direction from the body of an
// IPCTNL_MSG_CT_NEW. It is not ok if it is not TCP's.
func parseTuple(body []byte) (t packet.Tuple, ok bool) {
	if len(body) < nfnetlink.HeaderLen {
		return t, false
	}
	tuple := find(body[nfnetlink.HeaderLen:], ctaTupleOrig)
	ip, proto := find(tuple, ctaTupleIP), find(tuple, ctaTupleProto)
	number := find(proto, ctaProtoNum)
	src, dst := address(ip, ctaIPv4Src, ctaIPv6Src), address(ip, ctaIPv4Dst, ctaIPv6Dst)
	from, to := find(proto, ctaProtoSrcPort), find(proto, ctaProtoDstPort)
	if len(number) != 1 || number[0] != unix.IPPROTO_TCP || len(from) != 2 || len(to) != 2 {
		return t, false
	}
	return packet.Tuple{Src: src, Dst: dst, SrcPort: binary.BigEndian.Uint16(from), DstPort: binary.BigEndian.Uint16(to)}, true
}

// address is that of either version of IP.
func address(ip []byte, v4, v6 uint16) (a packet.Addr) {
	if b := find(ip, v4); len(b) == 4 {
		a[10], a[11] = 0xff, 0xff
		copy(a[12:], b)
		return a
	}
	copy(a[:], find(ip, v6))
	return a
}
