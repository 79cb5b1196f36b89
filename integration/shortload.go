package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// ShortLoad is many short connections over few ports of one client: each asks,
// is answered, and the server closes first. So the client may use a port again at
// once, while the server's socket of before is in TIME-WAIT.
type ShortLoad struct {
	Client      *Namespace
	From        netip.Addr
	To          netip.AddrPort
	Connections int
	Ports       int           // of the client
	Workers     int           // how many connections there are at a time
	Pause       time.Duration // of each worker before each connection, on average
	Patience    int64         // how many may fail before the load is given up

	failed atomic.Int64
}

const (
	// firstPort is the client's first: below those that the kernel chooses itself.
	firstPort = 10_000
	// ShortTimeout ends a connection of a ShortLoad that is not answered.
	ShortTimeout = 3 * time.Second
	// stallTime is longer than a connection takes that no timer has to help.
	stallTime = 500 * time.Millisecond
	// portWait is how often the kernel is asked whether a port is free again.
	portWait = 50 * time.Microsecond
)

var (
	shortRequest = []byte("GET / HTTP/1.0\r\n\r\n")
	shortAnswer  = append([]byte("HTTP/1.0 200 OK\r\n\r\n"), bytes.Repeat([]byte("answer\n"), 100)...)
)

// ShortResult is what became of a load.
type ShortResult struct {
	Elapsed  time.Duration
	Took     []time.Duration // of those that were answered, from connect to the end of the answer; sorted
	Failures []error
}

// Rate is how many connections a second were answered.
func (r *ShortResult) Rate() float64 { return float64(len(r.Took)) / r.Elapsed.Seconds() }

// Percentile is the time that p percent of the answered connections took at most.
func (r *ShortResult) Percentile(p int) time.Duration {
	if len(r.Took) == 0 {
		return 0
	}
	return r.Took[(len(r.Took)-1)*p/100]
}

// Stalls counts the connections that were answered and took too long.
func (r *ShortResult) Stalls() int {
	i, _ := slices.BinarySearch(r.Took, stallTime)
	return len(r.Took) - i
}

// String summarises the result on one line.
func (r *ShortResult) String() string {
	return fmt.Sprintf("%d answered, %.0f/s, p50 %v, p99 %v, max %v, %d stalls, %d failed",
		len(r.Took), r.Rate(), r.Percentile(50).Round(10*time.Microsecond), r.Percentile(99).Round(10*time.Microsecond),
		r.Percentile(100).Round(10*time.Microsecond), r.Stalls(), len(r.Failures))
}

// Run makes the connections, until ctx ends or too many have failed.
func (s *ShortLoad) Run(ctx context.Context) *ShortResult {
	parts := make([]ShortResult, s.Workers)
	start := time.Now()
	var wg sync.WaitGroup
	for w := range s.Workers {
		wg.Go(func() { s.work(ctx, w, &parts[w]) })
	}
	wg.Wait()
	all := &ShortResult{Elapsed: time.Since(start)}
	for _, p := range parts {
		all.Took = append(all.Took, p.Took...)
		all.Failures = append(all.Failures, p.Failures...)
	}
	slices.Sort(all.Took)
	return all
}

// work makes one worker's share of the connections, from ports that no other
// worker has.
func (s *ShortLoad) work(ctx context.Context, w int, r *ShortResult) {
	port := w
	for i := w; i < s.Connections && ctx.Err() == nil && s.failed.Load() < s.Patience; i += s.Workers {
		if s.Pause > 0 {
			time.Sleep(s.Pause/2 + rand.N(s.Pause)) // so that the workers keep no step
		}
		took, err := s.once(ctx, netip.AddrPortFrom(s.From, firstPort+uint16(port)))
		if err != nil {
			s.failed.Add(1)
			r.Failures = append(r.Failures, err)
		} else {
			r.Took = append(r.Took, took)
		}
		if port += s.Workers; port >= s.Ports {
			port = w
		}
	}
}

// once makes one connection.
func (s *ShortLoad) once(ctx context.Context, from netip.AddrPort) (time.Duration, error) {
	c, start, err := s.Client.begin(ctx, from, s.To)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(start.Add(ShortTimeout))
	if _, err := c.Write(shortRequest); err != nil {
		return 0, fmt.Errorf("from %v: send: %w", from, err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return 0, fmt.Errorf("from %v: receive: %w", from, err)
	}
	if !bytes.Equal(got, shortAnswer) {
		return 0, fmt.Errorf("from %v: %d octets of another answer", from, len(got))
	}
	return time.Since(start), nil
}

// begin sends a SYN as soon as the kernel lets the port be used again, and tells
// when. The first write waits for the handshake.
//
// Namespace.Dial makes a thread for each connection, which costs more than the
// connection.
func (n *Namespace) begin(ctx context.Context, from, to netip.AddrPort) (*os.File, time.Time, error) {
	for asked := time.Now(); ; {
		var fd int
		var start time.Time
		err := n.onResident(func() (err error) {
			start = time.Now()
			fd, err = connecting(from, to)
			return err
		})
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), "connection"), start, nil
		case !errors.Is(err, unix.EADDRNOTAVAIL), ctx.Err() != nil, time.Since(asked) > ShortTimeout:
			return nil, start, fmt.Errorf("connect from %v: %w", from, err)
		}
		time.Sleep(portWait) // the last ACK of the old one is on its way
	}
}

// connecting makes a socket that has sent its SYN.
func connecting(from, to netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sockaddr(from))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(to))
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// AnswerShort starts a server of a ShortLoad inside the namespace, which answers a
// request and closes. It ends with the lab.
func (n *Namespace) AnswerShort(addr netip.AddrPort) error {
	l, err := n.Listen(addr)
	if err != nil {
		return fmt.Errorf("listen in %s: %w", n.Name, err)
	}
	var wg sync.WaitGroup
	n.lab.onClose(func() error {
		_ = l.Close()
		wg.Wait()
		return nil
	})
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				wg.Go(func() { answerOnce(c) })
			}
		}
	})
	return nil
}

// answerOnce ignores errors: the client tells of them.
func answerOnce(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(ShortTimeout))
	if _, err := io.ReadFull(c, make([]byte, len(shortRequest))); err == nil {
		_, _ = c.Write(shortAnswer)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
