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

// Log is an open group of the target NFLOG: the kernel copies packets to it, and goes on
// with them at once. It is not safe for concurrent use. The buffer of the default has room
// for some 40,000 copies of short packets.
//
// Nobody is woken by a copy: it waits until Read. What the kernel has copied before a
// packet came to a queue, a Read between that packet's arrival and its judgement finds.
type Log struct {
	config  Config
	socket  *os.File
	fd      int
	in      *receiver
	message Message
	close   func() error
}

// OpenLog binds the group in the network namespace of the calling thread. It fails with
// ErrTaken if another socket has bound the number, and with unix.EPERM for want of
// CAP_NET_ADMIN.
func OpenLog(c Config) (*Log, error) {
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
func InheritLog(c Config, socket *os.File) *Log { return newLog(c, socket, int(socket.Fd())) }

func newLog(c Config, socket *os.File, fd int) *Log {
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

// explainLog is explain for a group.
func explainLog(err error, group uint16) error {
	holder := ""
	if logBound(group) {
		holder = "another process"
	}
	return explain(err, holder, "NFLOG (CONFIG_NETFILTER_NETLINK_LOG)")
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
func (l *Log) File() (*os.File, error) { return another(l.fd, l.socket.Name()) }

// Close closes the socket. The group is bound no more, unless another process has
// inherited it.
func (l *Log) Close() error { return l.close() }
