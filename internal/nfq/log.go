package nfq

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
)

// LogConfig says which group of the target NFLOG to open and how. DefaultLog has the
// values for all but Number.
type LogConfig struct {
	Number     uint16 // of the group, as in iptables' --nflog-group
	CopyRange  uint32 // octets of each packet to read, from the IP header on
	Batch      int    // copies to read with one call
	ReadBuffer int    // octets, of the socket
}

// DefaultLog is the configuration that was measured. The buffer has room for some 40,000
// copies of short packets.
func DefaultLog() LogConfig {
	c := Default()
	return LogConfig{CopyRange: c.CopyRange, Batch: c.Batch, ReadBuffer: c.ReadBuffer}
}

// Log is an open group of the target NFLOG: the kernel copies packets to it, and goes on
// with them at once. It is not safe for concurrent use.
//
// Nobody is woken by a copy: it waits until Read. What the kernel has copied before a
// packet came to a queue, a Read between that packet's arrival and its judgement finds.
type Log struct {
	config  LogConfig
	socket  *os.File
	fd      int
	in      *receiver
	message Message
	close   func() error
}

// OpenLog binds the group in the network namespace of the calling thread. It fails with
// ErrTaken if another socket has bound the number, and with unix.EPERM for want of
// CAP_NET_ADMIN.
func OpenLog(c LogConfig) (*Log, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nfq: open log group %d: %w", c.Number, os.NewSyscallError("socket", err))
	}
	l := newLog(c, os.NewFile(uintptr(fd), fmt.Sprint("log group ", c.Number)), fd)
	if err := l.bind(); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("nfq: open log group %d: %w", c.Number, explainLog(err, c.Number))
	}
	return l, nil
}

// InheritLog goes on with a group that another process has opened by OpenLog. It keeps
// the descriptor.
func InheritLog(c LogConfig, socket *os.File) (*Log, error) {
	return newLog(c, socket, int(socket.Fd())), nil
}

func newLog(c LogConfig, socket *os.File, fd int) *Log {
	l := &Log{config: c, socket: socket, fd: fd, in: newReceiver(max(c.Batch, 1), int(c.CopyRange)+attributesLen)}
	l.close = sync.OnceValue(socket.Close)
	return l
}

// bind asks for the copies of the group, each at once.
func (l *Log) bind() error {
	if err := unix.SetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, l.config.ReadBuffer); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	request := appendLogConfig(nil, l.config.Number, l.config.CopyRange)
	if _, err := unix.Write(l.fd, request); err != nil {
		return os.NewSyscallError("send", err)
	}
	return l.acknowledged()
}

// acknowledged waits for the kernel's answer. Copies may come before it: they are of a
// time when nobody judged yet.
func (l *Log) acknowledged() error {
	answer := make([]byte, 4096)
	for {
		n, err := unix.Read(l.fd, answer)
		if err == unix.EINTR || err == unix.ENOBUFS {
			continue
		}
		if err != nil {
			return os.NewSyscallError("receive", err)
		}
		if m, _, ok := nfnetlink.Next(answer[:n]); ok && m.Type == unix.NLMSG_ERROR {
			return nfnetlink.Errno(m.Body)
		}
	}
}

// explainLog says what it means that the kernel refuses a group. To one that another
// socket has bound it says EPERM.
func explainLog(err error, group uint16) error {
	switch {
	case errors.Is(err, unix.EPERM) && logBound(group):
		return fmt.Errorf("%w by another process", ErrTaken)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("needs root or CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel has no NFLOG (CONFIG_NETFILTER_NETLINK_LOG): %w", err)
	}
	return err
}

// logBound says whether a group is bound in the network namespace of the calling thread:
// the first number of a line (nfnetlink_log.c: seq_show).
func logBound(group uint16) bool {
	text, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_log")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == strconv.Itoa(int(group)) {
			return true
		}
	}
	return false
}

// ErrMissed is what Read's error wraps when the socket had no room for some copies.
var ErrMissed = errors.New("copies were missed")

// maxReads is how often Read asks the socket: what was in its buffer at first is read by
// then, and others who copy meanwhile do not hold up the caller for ever.
const maxReads = 1024

// Read hands over all copies that are there, and does not wait for more. A message is
// valid until f returns. Nobody waits for its verdict, and the length of the whole packet
// is what its header says.
func (l *Log) Read(f func(*Message)) error {
	var missed error
	for range maxReads {
		n, errno := l.in.receive(l.fd)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return missed
		case unix.EINTR:
			continue
		case unix.ENOBUFS:
			missed = fmt.Errorf("nfq: log group %d: %w", l.config.Number, ErrMissed)
			continue
		default:
			return fmt.Errorf("nfq: log group %d: %w", l.config.Number, os.NewSyscallError("receive", errno))
		}
		for i := range n {
			l.each(l.in.datagram(i), f)
		}
		if n < len(l.in.headers) {
			break
		}
	}
	return missed
}

// each hands over the copies of a datagram.
func (l *Log) each(b []byte, f func(*Message)) {
	for m, rest, ok := nfnetlink.Next(b); ok; m, rest, ok = nfnetlink.Next(rest) {
		if m.Type == msgLogPacket && l.message.parseLog(m.Body) {
			f(&l.message)
		}
	}
}

// File is another descriptor of the group's socket, for a process that inherits it.
func (l *Log) File() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("nfq: log group %d: %w", l.config.Number, err)
	}
	return os.NewFile(uintptr(fd), l.socket.Name()), nil
}

// Close closes the socket. The group is bound no more, unless another process has
// inherited it.
func (l *Log) Close() error { return l.close() }
