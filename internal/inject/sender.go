// Package inject sends TCP segments in the name of others, through raw sockets.
//
// Segments are collected and leave many at a time with sendmmsg. Each carries
// the mark that keeps it out of the hooks and of conntrack. Within an address
// family they leave in the order they were added, and one that cannot be sent
// does not hold up the rest: it is counted, and TCP sends it again.
//
// Routes are looked up as for any packet of the segment's source, so that policy
// routing by source (ip rule from) holds.
//
// Refused: payload, and IPv6 link-local addresses, as a segment names no
// interface.
package inject

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"nfqfw/internal/packet"
)

// Sender collects segments and sends them. It is not safe for concurrent use:
// each queue has its own. Counters may be read by any goroutine.
type Sender struct {
	log  *slog.Logger
	ipv4 batch
	ipv6 batch

	sent, failed, retries atomic.Uint64
	limit                 rate.Sometimes // log lines
}

// Counters are what a Sender has done since Open.
type Counters struct {
	Sent    uint64 // segments
	Failed  uint64 // segments that the kernel refused, or had no room for
	Retries uint64 // waits for room
}

// Counters may be called by any goroutine at any time.
func (s *Sender) Counters() Counters {
	return Counters{Sent: s.sent.Load(), Failed: s.failed.Load(), Retries: s.retries.Load()}
}

// capacity is how many segments of a family wait before they are sent unasked.
const capacity = 128

// writeBuffer is the send buffer in octets: a device that is slow for a moment
// is to lose nothing.
const writeBuffer = 4 << 20

// Open makes the sockets in the network namespace of the calling thread. mark
// becomes the packet mark of all segments. It needs CAP_NET_RAW and CAP_NET_ADMIN.
// Where the kernel has no IPv6, its segments count as failed.
func Open(mark packet.Mark, log *slog.Logger) (*Sender, error) {
	s := &Sender{
		log: log, ipv4: batch{fd: -1}, ipv6: batch{fd: -1},
		limit: rate.Sometimes{Interval: time.Second},
	}
	fd, err := socket(unix.AF_INET, mark)
	if err != nil {
		return nil, fmt.Errorf("inject: open IPv4 socket: %w", err)
	}
	s.ipv4.init(fd, unix.AF_INET, capacity)
	fd, err = socket(unix.AF_INET6, mark)
	if err != nil && err != unix.EAFNOSUPPORT {
		_ = s.Close()
		return nil, fmt.Errorf("inject: open IPv6 socket: %w", err)
	}
	s.ipv6.init(fd, unix.AF_INET6, capacity)
	return s, nil
}

// socket opens a raw socket, or returns -1. IPPROTO_RAW implies IP_HDRINCL for
// both families (raw(7); net/ipv6/raw.c: rawv6_init_sk).
func socket(family int, mark packet.Mark) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return -1, err
	}
	if err := setOptions(fd, family, mark); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func setOptions(fd, family int, mark packet.Mark) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
		return os.NewSyscallError("set SO_MARK", err)
	}
	if family == unix.AF_INET6 {
		// Without it a control message may name no source but our own. IP_HDRINCL
		// implies as much (include/net/inet_sock.h: inet_sk_flowi_flags).
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return os.NewSyscallError("set IPV6_FREEBIND", err)
		}
	}
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, writeBuffer)
	return os.NewSyscallError("set SO_SNDBUFFORCE", err)
}

// Add puts a segment into the batch. It may send what the batch held before,
// but not segment itself: that takes Flush.
func (s *Sender) Add(segment *packet.Segment) {
	b := &s.ipv6
	if segment.Is4() {
		b = &s.ipv4
	}
	if b.full() {
		s.flush(b)
	}
	b.add(segment)
}

// Flush sends all that was added. If a socket has no room it waits, some
// milliseconds at most; what cannot be sent is counted and given up.
func (s *Sender) Flush() {
	s.flush(&s.ipv4)
	s.flush(&s.ipv6)
}

// maxWaits bounds how often a flush waits for room, for waitTime each time.
const maxWaits = 10

func (s *Sender) flush(b *batch) {
	waits := 0
	for next := 0; next < b.count; {
		n, errno := b.send(next)
		switch {
		case errno == 0:
			s.sent.Add(uint64(n))
			next += n
		case errno == unix.EINTR:
		case (errno == unix.EAGAIN || errno == unix.ENOBUFS) && waits < maxWaits:
			waits++
			s.retries.Add(1)
			b.wait()
		default:
			s.refused(b.to[next], errno)
			next++ // the error is the first one's: sendmmsg(2)
		}
	}
	b.count = 0
}

func (s *Sender) refused(to packet.Tuple, errno unix.Errno) {
	s.failed.Add(1)
	s.limit.Do(func() { s.log.Warn("segment not sent", "tuple", to, "err", errno) })
}

// Close closes the sockets. What was added and not flushed is lost.
func (s *Sender) Close() error {
	for _, b := range []*batch{&s.ipv4, &s.ipv6} {
		if b.fd < 0 {
			continue
		}
		if err := unix.Close(b.fd); err != nil {
			return fmt.Errorf("inject: close: %w", err)
		}
		b.fd = -1
	}
	return nil
}
