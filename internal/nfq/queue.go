// Package nfq reads packets from a netfilter queue (NFQUEUE) and answers them, and
// copies of packets that pass (NFLOG), which nobody waits for.
//
// It is the only importer of go-nfqueue. The library opens, configures and
// registers the queue, and unbinds it in the end; between the two this package
// takes over its socket, because the library's own loop costs some 67
// allocations and 30 µs a packet. Packets are read many at a time with
// recvmmsg, judged, and answered with many verdict messages in one send, on the
// same socket: the kernel takes verdicts from no other.
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
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	nfqueue "github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
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
	lib    *nfqueue.Nfqueue // nil if the socket is another process's
	conn   conn
	raw    syscall.RawConn
	cancel context.CancelFunc
	closed context.Context // done when Close was called
	gone   chan struct{}   // closed when the library's goroutine has ended
	letIn  chan struct{}   // closed when the kernel sends packets
	close  func() error
	run    atomic.Pointer[reader]
	counters
}

// conn is a socket that has bound a queue.
type conn interface {
	SyscallConn() (syscall.RawConn, error)
	SetReadDeadline(time.Time) error
	Close() error
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
	q := newQueue(c, lib.Con)
	q.lib = lib
	if err := q.register(); err != nil {
		_ = q.Close()
		return nil, fmt.Errorf("nfq: open queue %d: %w", c.Number, explainQueue(err, c.Number))
	}
	return q, nil
}

func newQueue(c Config, socket conn) *Queue {
	q := &Queue{config: c, conn: socket, gone: make(chan struct{}), letIn: make(chan struct{})}
	q.close = sync.OnceValue(q.closeOnce)
	q.closed, q.cancel = context.WithCancel(context.Background())
	return q
}

func (q *Queue) register() error {
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return err
	}
	q.raw = raw
	if err := q.setOptions(); err != nil {
		return err
	}
	return q.lib.RegisterWithErrorFunc(q.closed, q.unexpected, q.onError)
}

// setOptions sizes the socket. Without NETLINK_NO_ENOBUFS a full buffer would
// show as an error of every later call, and as nothing more than that.
func (q *Queue) setOptions() error {
	if err := q.lib.SetOption(netlink.NoENOBUFS, true); err != nil {
		return fmt.Errorf("set NETLINK_NO_ENOBUFS: %w", err)
	}
	var failed error
	err := q.raw.Control(func(fd uintptr) {
		failed = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, q.config.ReadBuffer),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, writeBuffer),
		)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("set the socket's buffers: %w", err)
	}
	return nil
}

// unexpected is the library's callback for a packet. Its goroutine is ours
// before the first one is let in, so this is never called with one.
func (q *Queue) unexpected(a nfqueue.Attribute) int {
	if a.PacketID != nil {
		_ = q.lib.SetVerdict(*a.PacketID, nfqueue.NfDrop)
	}
	return 0
}

// onError is the library's callback for a failed read. Run makes one fail, to
// get at the goroutine: the loop runs in here.
func (q *Queue) onError(err error) int {
	const goOn, unbind = 0, 1
	if q.closed.Err() != nil {
		return unbind
	}
	r := q.run.Load()
	if r == nil {
		q.config.Logger.Debug("netlink error before the queue runs", "queue", q.config.Number, "err", err)
		return goOn
	}
	r.loop()
	return unbind
}

// Run judges packets with h until ctx is done, then returns nil; or until the
// socket fails. A queue runs once. All calls of h come from one goroutine, which
// keeps to no thread.
func (q *Queue) Run(ctx context.Context, h Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(q.closed, cancel)()
	r := newReader(ctx, q, h)
	if !q.run.CompareAndSwap(nil, r) {
		return fmt.Errorf("nfq: queue %d: runs only once", q.config.Number)
	}
	if q.lib == nil {
		r.loop()
	} else if err := q.conn.SetReadDeadline(past); err != nil {
		return fmt.Errorf("nfq: queue %d: take over the socket: %w", q.config.Number, err)
	}
	select {
	case <-r.done:
	case <-q.gone: // closed before the library called onError
	}
	if r.err != nil {
		return fmt.Errorf("nfq: queue %d: %w", q.config.Number, r.err)
	}
	return nil
}

// Listening is closed as soon as packets come to Run: until then the kernel drops them.
func (q *Queue) Listening() <-chan struct{} { return q.letIn }

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// Number is the queue's, as in iptables' --queue-num.
func (q *Queue) Number() uint16 { return q.config.Number }

// Close ends Run, unbinds the queue and closes the socket. The kernel drops
// the packets that wait for a verdict.
func (q *Queue) Close() error { return q.close() }

func (q *Queue) closeOnce() error {
	defer close(q.gone)
	q.cancel()
	end := q.conn.Close
	if q.lib != nil {
		end = q.lib.Close
	}
	if err := end(); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("nfq: close queue %d: %w", q.config.Number, err)
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
