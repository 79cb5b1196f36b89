package nfq

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
)

// reader is the loop of one queue, with all buffers it will ever need.
type reader struct {
	queue   *Queue
	handler Handler
	ctx     context.Context
	done    chan struct{} // closed when Run is about to return
	err     error

	pause atomic.Pointer[pause]

	in      *receiver
	batch   []Message
	answers []byte         // the verdict messages of a batch
	panics  rate.Sometimes // log lines about panics
	errors  rate.Sometimes // and about verdicts

	panicking time.Time // when the minute began in which panics are counted
	panicked  int
}

func newReader(ctx context.Context, q *Queue, h Handler) *reader {
	n := max(q.config.Batch, 1)
	return &reader{
		queue: q, handler: h, ctx: ctx, done: make(chan struct{}),
		in:      newReceiver(n, int(q.config.CopyRange)+attributesLen),
		batch:   make([]Message, 0, n),
		answers: make([]byte, 0, n*verdictLen),
		panics:  rate.Sometimes{Interval: time.Second},
		errors:  rate.Sometimes{Interval: time.Second},
	}
}

// attributesLen is room for what comes with a packet: some 150 octets, more on
// a bridge.
const attributesLen = 512

// loop runs until the context is done or the socket fails.
func (r *reader) loop(fd int) {
	if r.err = r.letIn(fd); r.err != nil {
		return
	}
	close(r.queue.letIn)
	for r.err == nil && r.goesOn() {
		r.read(fd)
	}
}

// letIn has the kernel send packets from now on.
func (r *reader) letIn(fd int) error {
	b := appendCopyPacket(r.answers[:0], r.queue.config.Number, r.queue.config.CopyRange)
	if _, err := unix.Write(fd, b); err != nil {
		return fmt.Errorf("ask for packets: %w", err)
	}
	return nil
}

// read waits for packets, if none are there, and answers them.
func (r *reader) read(fd int) {
	n, err := r.in.wait(fd)
	switch err {
	case 0:
		r.answer(fd, n)
	case unix.EINTR:
	case unix.ENOBUFS:
		r.queue.overruns.Add(1)
	default:
		r.err = fmt.Errorf("receive: %w", err)
	}
}

// answer judges the packets of n datagrams and sends the verdicts.
func (r *reader) answer(fd, n int) {
	r.batch = r.batch[:0]
	for i := range n {
		r.parse(r.in.datagram(i))
	}
	if len(r.batch) == 0 {
		return
	}
	r.judge()
	r.flush()
	b, passed := appendVerdicts(r.answers[:0], r.queue.config.Number, r.batch)
	r.answers = b
	r.queue.count(len(r.batch), passed)
	if err := send(fd, b); err != nil {
		r.queue.verdictErrors.Add(uint64(len(r.batch)))
		r.errors.Do(func() {
			r.queue.config.Logger.Error("verdicts not sent", "queue", r.queue.config.Number, "packets", len(r.batch), "err", err)
		})
	}
}

// parse adds the packets of a datagram to the batch. The kernel answers a
// verdict only when it fails, in its own time.
func (r *reader) parse(b []byte) {
	for len(b) > 0 {
		m, rest, ok := nfnetlink.Next(b)
		if !ok {
			r.queue.malformed.Add(1)
			return
		}
		b = rest
		switch m.Type {
		case msgPacket:
			r.batch = append(r.batch, Message{})
			if !r.batch[len(r.batch)-1].parse(m.Body) {
				r.queue.malformed.Add(1)
				r.batch = r.batch[:len(r.batch)-1]
			}
		case unix.NLMSG_ERROR:
			r.onNetlinkError(m.Body)
		}
	}
}

func (r *reader) onNetlinkError(body []byte) {
	if len(body) < 4 {
		r.queue.malformed.Add(1)
		return
	}
	errno := -int32(binary.NativeEndian.Uint32(body))
	if errno == 0 {
		return // an acknowledgment
	}
	r.queue.verdictErrors.Add(1)
	r.errors.Do(func() {
		r.queue.config.Logger.Warn("verdict refused by the kernel", "queue", r.queue.config.Number, "err", unix.Errno(errno))
	})
}

// judge has the handler answer the batch.
func (r *reader) judge() {
	for i := 0; i < len(r.batch); {
		i = r.judgeFrom(i)
	}
}

// judgeFrom has the handler answer the packets from number i on, and returns where to
// go on. One at which it panics is dropped: no packet may wait in the kernel for ever.
func (r *reader) judgeFrom(i int) (next int) {
	defer func() {
		if cause := recover(); cause != nil {
			m := &r.batch[i]
			m.verdict = packet.Drop
			r.onPanic(cause, m.Payload)
			next = i + 1
		}
	}()
	for ; i < len(r.batch); i++ {
		r.handler.Handle(&r.batch[i])
	}
	return i
}

func (r *reader) flush() {
	defer func() {
		if cause := recover(); cause != nil {
			r.onPanic(cause, nil)
		}
	}()
	r.handler.Flush()
}

// maxPanics is how many panics a queue survives in a minute. What has panicked so often
// is better begun anew.
const maxPanics = 100

// onPanic tells of a panic. The header is that of the packet at which it was, if any.
func (r *reader) onPanic(cause any, header []byte) {
	r.queue.panics.Add(1)
	if now := time.Now(); now.Sub(r.panicking) > time.Minute {
		r.panicking, r.panicked = now, 0
	}
	if r.panicked++; r.panicked > maxPanics && r.err == nil {
		r.err = fmt.Errorf("more than %d panics in a minute, the last: %v", maxPanics, cause)
	}
	const headers = 128 // octets: IPv6, some extension headers, TCP and all options
	r.panics.Do(func() {
		r.queue.config.Logger.Error("panic while judging", "queue", r.queue.config.Number, "cause", cause,
			"header", hex.EncodeToString(header[:min(len(header), headers)]), "stack", string(debug.Stack()))
	})
}
