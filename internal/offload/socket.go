package offload

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
)

// socket is a netlink socket on which one request at a time waits for its
// answer. The kernel handles a request before send returns, so that the answer
// is there at once.
type socket struct {
	fd       int
	sequence uint32
	in       []byte
}

// answerTimeout is in seconds. It is never reached, unless an answer is lost
// for want of memory.
const answerTimeout = 1

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd, in: make([]byte, 8192)} // the kernel's NLMSG_GOODSIZE
	if err := s.bind(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

func (s *socket) bind() error {
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	// An acknowledgment need not repeat the request.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1); err != nil {
		return os.NewSyscallError("set NETLINK_CAP_ACK", err)
	}
	err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: answerTimeout})
	return os.NewSyscallError("set SO_RCVTIMEO", err)
}

// next is the sequence number of the next request.
func (s *socket) next() uint32 {
	s.sequence++
	return s.sequence
}

// exchange sends the request with the newest sequence number and returns the
// body of its answer, valid until the next; nil for an acknowledgment. The error
// is the kernel's unix.Errno as it is.
func (s *socket) exchange(request []byte) ([]byte, error) {
	if _, err := unix.Write(s.fd, request); err != nil {
		return nil, os.NewSyscallError("send", err)
	}
	for {
		n, err := unix.Read(s.fd, s.in)
		if err == unix.EINTR || err == unix.ENOBUFS { // some answer was lost, and not necessarily this one
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("receive", err)
		}
		if body, mine, err := s.match(s.in[:n]); mine {
			return body, err
		}
	}
}

// match reads an answer. It is not ours if an earlier request gave up on it.
func (s *socket) match(b []byte) (body []byte, mine bool, err error) {
	if len(b) < unix.NLMSG_HDRLEN || binary.NativeEndian.Uint32(b[8:]) != s.sequence {
		return nil, false, nil
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < unix.NLMSG_HDRLEN+4 || n > len(b) {
		return nil, true, fmt.Errorf("answer of %d octets claims to have %d", len(b), n)
	}
	body = b[unix.NLMSG_HDRLEN:n]
	if binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return body, true, nil
	}
	return nil, true, nfnetlink.Errno(body)
}

func (s *socket) close() error { return unix.Close(s.fd) }
