// Package nfq reads packets from a netfilter queue (NFQUEUE) and answers them, and
// copies of packets that pass (NFLOG), which nobody waits for.
//
// It is the only importer of go-nfqueue. The library opens, configures and
// registers the queue; then this package takes its socket over, because the
// library's own loop costs some 67 allocations and 30 µs a packet. Packets are
// read many at a time with recvmmsg, judged, and answered with many verdict
// messages in one send, on the same socket: the kernel takes verdicts from no other.
// The reader waits in recvmmsg and not in the runtime's poller, which costs a sixth of
// the daemon's time in wake-ups. The queue is bound until the last descriptor of its socket is
// closed.
//
// Invariants: each packet read gets exactly one verdict. One at which the handler
// panics is dropped, and told of with its header; a queue that panics all the time
// ends. Verdicts are given in the order of the packets: a row of drops is one message,
// which is for all that were queued up to its last. Segments that the handler sends
// leave before the verdicts of their batch. A packet's mark changes in the bits of
// packet.MarkMask alone.
//
// Refused: a queue that never fails open (a full queue drops, as over-limit
// connections would pass exactly under load otherwise), payload rewriting, and
// verdicts by another goroutine than the queue's.
package nfq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"golang.org/x/sys/unix"
)

// Config says which queue or log group to open and how. Default has the values for
// all but Number and Logger.
type Config struct {
	Number     uint16 // of the queue or group, as in iptables' --queue-num or --nflog-group
	MaxLen     uint32 // of a queue: packets waiting for a verdict before the kernel drops
	CopyRange  uint32 // octets of each packet to read, from the IP header on
	Batch      int    // packets to judge before their verdicts are sent, or copies to read with one call
	ReadBuffer int    // octets, of the socket
	Logger     *slog.Logger
}

// Default is the configuration that was measured. 256 octets hold every IPv4
// header with every option, and IPv6 with 150 octets of extension headers.
func Default() Config {
	return Config{MaxLen: 16384, CopyRange: 256, Batch: 64, ReadBuffer: 16 << 20, Logger: slog.New(slog.DiscardHandler)}
}

// writeBuffer is the send buffer in octets: one batch of verdicts must fit.
const writeBuffer = 1 << 20

// Handler judges packets. It is called by one goroutine.
type Handler interface {
	// Handle answers m, or leaves it to be dropped. It may keep m.Payload until
	// Flush returns, and must not change it.
	Handle(m *Message)
	// Flush is called when all packets of a batch are judged and their verdicts
	// not yet sent: the time to send segments.
	Flush()
}

// Queue is an open netfilter queue.
type Queue struct {
	config Config
	cancel context.CancelFunc
	closed context.Context // done when Close was called
	letIn  chan struct{}   // closed when the kernel sends packets
	close  func() error
	run    atomic.Pointer[reader]

	mu sync.Mutex // no descriptor is closed while it is used
	fd int        // of the socket, which blocks and which the runtime's poller does not know
	counters
}

// ErrTaken is what Open's error wraps when another socket has the queue.
var ErrTaken = errors.New("taken")

// Open binds the queue in the network namespace of the calling thread. Until
// Run, the kernel drops the packets that rules send to it.
//
// It fails with ErrTaken if another socket has bound the number, and with
// unix.EPERM for want of CAP_NET_ADMIN.
func Open(c Config) (*Queue, error) {
	lib, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      c.Number,
		MaxQueueLen:  c.MaxLen,
		MaxPacketLen: c.CopyRange,
		// No packet comes before Run asks for them: the library reads a packet
		// in place of the acknowledgment it waits for, and fails.
		Copymode: nfqueue.NfQnlCopyNone,
		Flags:    nfqueue.NfQaCfgFlagGSO,
		AfFamily: unix.AF_UNSPEC,
		Logger:   libraryLog{c.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("nfq: open queue %d: %w", c.Number, explainQueue(err, c.Number))
	}
	fd, err := takeOver(lib)
	if err != nil {
		return nil, fmt.Errorf("nfq: open queue %d: %w", c.Number, explainQueue(err, c.Number))
	}
	q, err := newQueue(c, fd)
	if err != nil {
		return nil, fmt.Errorf("nfq: open queue %d: %w", c.Number, err)
	}
	if err := q.setOptions(); err != nil {
		_ = q.Close()
		return nil, fmt.Errorf("nfq: open queue %d: %w", c.Number, err)
	}
	return q, nil
}

// takeOver has the library register the queue, and end without its unbinding it: the
// library's descriptor is closed before, and what is left is another one of the socket.
func takeOver(lib *nfqueue.Nfqueue) (fd int, err error) {
	defer func() { err = errors.Join(err, lib.Close()) }()
	// No packet comes, and no error is the end: the library would unbind the queue.
	ignore := func(nfqueue.Attribute) int { return 0 }
	goOn := func(error) int { return 0 }
	if err := lib.RegisterWithErrorFunc(context.Background(), ignore, goOn); err != nil {
		return -1, err
	}
	raw, err := lib.Con.SyscallConn()
	if err != nil {
		return -1, err
	}
	return duplicate(raw)
}

// duplicate makes another descriptor of a socket.
func duplicate(raw syscall.RawConn) (fd int, err error) {
	var failed error
	err = raw.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, os.NewSyscallError("fcntl", failed))
}

// newQueue makes the queue of a socket, and keeps the descriptor.
func newQueue(c Config, fd int) (*Queue, error) {
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fd))
	}
	q := &Queue{config: c, fd: fd, letIn: make(chan struct{})}
	q.close = sync.OnceValue(q.closeOnce)
	q.closed, q.cancel = context.WithCancel(context.Background())
	return q, nil
}

// setOptions sizes the socket. Without NETLINK_NO_ENOBUFS a full buffer would
// show as an error of every later call, and as nothing more than that.
func (q *Queue) setOptions() error {
	for _, o := range []struct {
		name                 string
		level, option, value int
	}{
		{"NETLINK_NO_ENOBUFS", unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1},
		{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, q.config.ReadBuffer},
		{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, writeBuffer},
	} {
		if err := unix.SetsockoptInt(q.fd, o.level, o.option, o.value); err != nil {
			return os.NewSyscallError("set "+o.name, err)
		}
	}
	return nil
}

// Run judges packets with h until ctx is done, then returns nil; or until the
// socket fails. A queue runs once. All calls of h come from this goroutine.
func (q *Queue) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := newReader(ctx, q, h)
	if !q.run.CompareAndSwap(nil, r) {
		return fmt.Errorf("nfq: queue %d: runs only once", q.config.Number)
	}
	defer close(r.done)
	if q.closed.Err() != nil {
		return fmt.Errorf("nfq: queue %d: %w", q.config.Number, os.ErrClosed)
	}
	defer context.AfterFunc(q.closed, cancel)()
	defer context.AfterFunc(ctx, q.wake)()
	r.loop(q.fd)
	if r.err != nil {
		return fmt.Errorf("nfq: queue %d: %w", q.config.Number, r.err)
	}
	return nil
}

// wake has the reader look up: the kernel acknowledges a message that asks for nothing,
// and the reader is given the acknowledgment. There is no room for that only where
// there are packets for it to read.
func (q *Queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.fd >= 0 {
		_ = send(q.fd, appendNothing(nil))
	}
}

// Listening is closed as soon as packets come to Run: until then the kernel drops them.
func (q *Queue) Listening() <-chan struct{} { return q.letIn }

// Number is the queue's, as in iptables' --queue-num.
func (q *Queue) Number() uint16 { return q.config.Number }

// Close ends Run, waits for it, and closes the socket. With its last descriptor the
// queue is unbound, and the kernel drops the packets that wait for a verdict; it
// stays as it is for another process that has inherited it. A Handler must not call it.
func (q *Queue) Close() error { return q.close() }

func (q *Queue) closeOnce() error {
	q.cancel()
	if r := q.run.Load(); r != nil {
		<-r.done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	err := unix.Close(q.fd)
	q.fd = -1
	if err != nil {
		return fmt.Errorf("nfq: close queue %d: %w", q.config.Number, os.NewSyscallError("close", err))
	}
	return nil
}

// libraryLog gives go-nfqueue's messages to slog. All are of the beginning and
// the end, and what matters comes back as an error, too. That the library cannot
// unbind the queue is none: the socket is closed then, and the queue with it.
type libraryLog struct{ log *slog.Logger }

func (l libraryLog) Debugf(format string, args ...any) { l.Errorf(format, args...) }
func (l libraryLog) Errorf(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) && !strings.Contains(format, "unbind") {
		l.log.Debug("go-nfqueue", "message", fmt.Sprintf(format, args...))
	}
}
