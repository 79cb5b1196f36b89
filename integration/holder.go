package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Outcome is what became of an attempt to connect.
type Outcome uint8

// The outcomes of an attempt.
const (
	Failed   Outcome = iota // for a reason that is none of the others
	Held                    // established and usable
	Refused                 // reset before connect succeeded
	Reset                   // reset after connect succeeded
	Closed                  // closed by the server after connect succeeded
	TimedOut                // no answer in time
)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	names := [...]string{"failed", "held", "refused", "reset", "closed", "timed out"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("Outcome(%d)", uint8(o))
}

// HoldOptions describe a client that opens connections and keeps them.
type HoldOptions struct {
	From netip.Addr     // source; zero: the kernel's choice
	To   netip.AddrPort // the server
	N    int            // how many connections
	// Concurrency is how many are opened at a time; 0 means one after the other.
	Concurrency int
	// Timeout bounds each attempt; 0 means DefaultHoldTimeout.
	Timeout time.Duration

	// A firewall can refuse a connection after connect has succeeded, so an
	// attempt counts as held only after a proof. By default one byte goes
	// there and back. Send replaces what is sent; Expect is how many bytes must
	// come, for a server that does not echo; Banner sends nothing and expects
	// one byte. With Silence the proof is that for so long nothing is heard,
	// neither bytes nor a reset: for a server kept waiting for a request.
	Send    []byte
	Expect  int
	Banner  bool
	Silence time.Duration
}

// DefaultHoldTimeout bounds an attempt for which HoldOptions gives no timeout.
const DefaultHoldTimeout = 3 * time.Second

// Attempt reports on one connection.
type Attempt struct {
	Outcome Outcome
	Err     error         // why not held
	Elapsed time.Duration // until the outcome was known
	Conn    *net.TCPConn  // nil unless held
}

// Holder is a client and its connections.
type Holder struct {
	Attempts []Attempt

	once sync.Once
}

// Hold opens connections from inside the namespace and proves each. It returns
// when the outcome of all is known; the connections stay open until the Holder
// or the lab is closed.
func (n *Namespace) Hold(ctx context.Context, opts HoldOptions) *Holder {
	h := &Holder{Attempts: make([]Attempt, opts.N)}
	n.lab.onClose(h.Close)
	var g errgroup.Group
	g.SetLimit(max(opts.Concurrency, 1))
	for i := range h.Attempts {
		g.Go(func() error {
			h.Attempts[i] = n.attempt(ctx, opts)
			return nil
		})
	}
	_ = g.Wait() // outcomes, errors included, are in the attempts
	return h
}

// Count returns how many attempts ended with the outcome.
func (h *Holder) Count(o Outcome) int {
	count := 0
	for _, a := range h.Attempts {
		if a.Outcome == o {
			count++
		}
	}
	return count
}

// Conns returns the connections that are held.
func (h *Holder) Conns() []*net.TCPConn {
	var conns []*net.TCPConn
	for _, a := range h.Attempts {
		if a.Conn != nil {
			conns = append(conns, a.Conn)
		}
	}
	return conns
}

// String summarises the outcomes, as "10 held, 90 reset".
func (h *Holder) String() string {
	s := ""
	for o := Failed; o <= TimedOut; o++ {
		if c := h.Count(o); c > 0 {
			s += fmt.Sprintf(", %d %v", c, o)
		}
	}
	if s == "" {
		return "no attempt"
	}
	return s[2:]
}

// Close closes the connections that are held.
func (h *Holder) Close() error {
	h.once.Do(func() {
		for _, c := range h.Conns() {
			_ = c.Close() // a test may have closed it
		}
	})
	return nil
}

// attempt opens one connection and proves it.
func (n *Namespace) attempt(ctx context.Context, opts HoldOptions) Attempt {
	timeout := opts.Timeout
	if timeout == 0 {
		timeout = DefaultHoldTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	c, err := n.Dial(ctx, netip.AddrPortFrom(opts.From, 0), opts.To)
	if err == nil {
		if err = prove(ctx, c, opts); err != nil {
			_ = c.Close()
			c = nil
		}
	}
	return Attempt{Outcome: outcomeOf(err), Err: err, Elapsed: time.Since(start), Conn: c}
}

// prove tells whether the connection is usable.
func prove(ctx context.Context, c *net.TCPConn, opts HoldOptions) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	send := opts.Send
	if send == nil && !opts.Banner && opts.Silence == 0 {
		send = []byte{'.'}
	}
	if _, err := c.Write(send); err != nil {
		return err
	}
	if opts.Silence > 0 {
		return silent(ctx, c, opts.Silence)
	}
	expect := opts.Expect
	if expect == 0 {
		expect = max(len(send), 1)
	}
	_, err := io.ReadFull(c, make([]byte, expect))
	return err
}

// silent returns nil if nothing is heard for a while.
func silent(ctx context.Context, c *net.TCPConn, d time.Duration) error {
	_ = c.SetReadDeadline(time.Now().Add(d)) // fails only on a closed socket, as Read then does
	_, err := c.Read(make([]byte, 1))
	switch {
	case err == nil:
		return errors.New("expect silence: the server sent something")
	case ctx.Err() != nil:
		return ctx.Err()
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	}
	return c.SetReadDeadline(time.Time{})
}

// outcomeOf reads an error as a client would.
func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Held
	case errors.Is(err, unix.ECONNREFUSED):
		return Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return Reset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Closed
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return TimedOut
	}
	return Failed
}
