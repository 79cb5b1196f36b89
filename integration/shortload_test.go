package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A shortLoad is many short connections over few ports of one client: each asks,
// is answered, and the server closes first. So the client may use a port again at
// once, while the server's socket of before is in TIME-WAIT.
type shortLoad struct {
	client      *Namespace
	from        netip.Addr
	to          netip.AddrPort
	connections int
	ports       int   // of the client
	workers     int   // how many connections there are at a time
	patience    int64 // how many may fail before the load is given up

	failed atomic.Int64
}

const (
	// firstPort is the client's first: below those that the kernel chooses itself.
	firstPort = 10_000
	// shortTimeout ends a connection that is not answered.
	shortTimeout = 3 * time.Second
	// stallTime is longer than a connection takes that no timer has to help.
	stallTime = 500 * time.Millisecond
	// portWait is how often the kernel is asked whether a port is free again.
	portWait = 50 * time.Microsecond
)

var (
	shortRequest = []byte("GET / HTTP/1.0\r\n\r\n")
	shortAnswer  = append([]byte("HTTP/1.0 200 OK\r\n\r\n"), bytes.Repeat([]byte("answer\n"), 100)...)
)

// shortResult is what became of a load.
type shortResult struct {
	elapsed  time.Duration
	took     []time.Duration // of those that were answered, from connect to the end of the answer; sorted
	failures []error
}

func (r *shortResult) rate() float64 { return float64(len(r.took)) / r.elapsed.Seconds() }

func (r *shortResult) percentile(p int) time.Duration {
	if len(r.took) == 0 {
		return 0
	}
	return r.took[(len(r.took)-1)*p/100]
}

// stalls counts the connections that were answered and took too long.
func (r *shortResult) stalls() int {
	i, _ := slices.BinarySearch(r.took, stallTime)
	return len(r.took) - i
}

// String summarises the result on one line.
func (r *shortResult) String() string {
	return fmt.Sprintf("%d answered, %.0f/s, p50 %v, p99 %v, max %v, %d stalls, %d failed",
		len(r.took), r.rate(), r.percentile(50).Round(10*time.Microsecond), r.percentile(99).Round(10*time.Microsecond),
		r.percentile(100).Round(10*time.Microsecond), r.stalls(), len(r.failures))
}

// run makes the connections, until ctx ends or too many have failed.
func (s *shortLoad) run(ctx context.Context) *shortResult {
	parts := make([]shortResult, s.workers)
	start := time.Now()
	var wg sync.WaitGroup
	for w := range s.workers {
		wg.Go(func() { s.work(ctx, w, &parts[w]) })
	}
	wg.Wait()
	all := &shortResult{elapsed: time.Since(start)}
	for _, p := range parts {
		all.took = append(all.took, p.took...)
		all.failures = append(all.failures, p.failures...)
	}
	slices.Sort(all.took)
	return all
}

// work makes one worker's share of the connections, from ports that no other
// worker has.
func (s *shortLoad) work(ctx context.Context, w int, r *shortResult) {
	port := w
	for i := w; i < s.connections && ctx.Err() == nil && s.failed.Load() < s.patience; i += s.workers {
		took, err := s.once(ctx, netip.AddrPortFrom(s.from, firstPort+uint16(port)))
		if err != nil {
			s.failed.Add(1)
			r.failures = append(r.failures, err)
		} else {
			r.took = append(r.took, took)
		}
		if port += s.workers; port >= s.ports {
			port = w
		}
	}
}

// once makes one connection.
func (s *shortLoad) once(ctx context.Context, from netip.AddrPort) (time.Duration, error) {
	c, start, err := s.client.begin(ctx, from, s.to)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(start.Add(shortTimeout))
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
		case !errors.Is(err, unix.EADDRNOTAVAIL), ctx.Err() != nil, time.Since(asked) > shortTimeout:
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

// answerShort starts a server that answers a request and closes.
func answerShort(t testing.TB, n *Namespace, addr netip.AddrPort) {
	t.Helper()
	l := must[*net.TCPListener](t, "listen")(n.Listen(addr))
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
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
}

// answerOnce ignores errors: the client tells of them.
func answerOnce(c *net.TCPConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(shortTimeout))
	if _, err := io.ReadFull(c, make([]byte, len(shortRequest))); err == nil {
		_, _ = c.Write(shortAnswer)
	}
}
