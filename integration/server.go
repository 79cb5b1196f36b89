package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// AcceptOptions say what an AcceptCounter does with a connection besides
// holding it.
type AcceptOptions struct {
	// Banner is written to every connection at once.
	Banner []byte
	// Echo returns what the client sends.
	Echo bool
	// CloseOnEOF closes a connection when the client has closed its side;
	// otherwise the server's side stays open until somebody closes it, or the
	// client resets it. It takes effect with Echo only, for otherwise nobody reads.
	CloseOnEOF bool
}

// AcceptCounter is a server that accepts every connection, counts it and holds
// it open.
type AcceptCounter struct {
	opts     AcceptOptions
	listener *net.TCPListener
	wg       sync.WaitGroup

	mu    sync.Mutex // guards conns: the accept loop appends while tests look
	conns []*net.TCPConn
}

// CountAccepts starts an AcceptCounter inside the namespace, closed with the
// lab. Port 0 lets the kernel choose one, which Addr then tells.
func (n *Namespace) CountAccepts(addr netip.AddrPort, opts AcceptOptions) (*AcceptCounter, error) {
	l, err := n.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", n.Name, err)
	}
	a := &AcceptCounter{opts: opts, listener: l}
	a.wg.Go(a.accept)
	n.lab.onClose(a.abort)
	return a, nil
}

// Addr returns where the server listens.
func (a *AcceptCounter) Addr() netip.AddrPort {
	return a.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Count returns how many connections were accepted, open or not.
func (a *AcceptCounter) Count() int { return len(a.Conns()) }

// Conns returns the accepted connections in order.
func (a *AcceptCounter) Conns() []*net.TCPConn {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.conns)
}

// Conn waits for the i-th connection, from 0, and returns it.
func (a *AcceptCounter) Conn(ctx context.Context, i int) (*net.TCPConn, error) {
	if err := Poll(ctx, func() bool { return a.Count() > i }); err != nil {
		return nil, fmt.Errorf("wait for connection %d of %d: %w", i, a.Count(), err)
	}
	return a.Conns()[i], nil
}

// acceptedFrom returns the connection from a client, or nil. Of the connections
// it looks at those since a number: a client may have used its port before.
func (a *AcceptCounter) acceptedFrom(client netip.AddrPort, since int) *net.TCPConn {
	for _, c := range a.Conns()[since:] {
		if c.RemoteAddr().(*net.TCPAddr).AddrPort() == client {
			return c
		}
	}
	return nil
}

// setBacklog changes how many connections may wait to be accepted (listen(2)).
func (a *AcceptCounter) setBacklog(n int) error {
	raw, err := a.listener.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), n) }), err)
}

// Close closes the listener and every connection.
func (a *AcceptCounter) Close() error {
	err := a.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	for _, c := range a.Conns() {
		_ = c.Close() // a test may have closed it
	}
	a.wg.Wait()
	return err
}

// abort is Close, with resets: nothing is to go on sending when the wires are
// taken away, for a socket that waits for an answer can keep a device from
// going (the kernel waits for it, a minute and more).
func (a *AcceptCounter) abort() error {
	for _, c := range a.Conns() {
		_ = c.SetLinger(0)
	}
	return a.Close()
}

func (a *AcceptCounter) accept() {
	for {
		c, err := a.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			continue // that connection died in the queue
		}
		a.mu.Lock()
		a.conns = append(a.conns, c)
		a.mu.Unlock()
		a.wg.Go(func() { a.serve(c) })
	}
	// Close may have looked before the last one came.
	for _, c := range a.Conns() {
		_ = c.Close()
	}
}

// serve ignores errors: a client that goes away is what the tests are about.
func (a *AcceptCounter) serve(c *net.TCPConn) {
	if len(a.opts.Banner) > 0 {
		_, _ = c.Write(a.opts.Banner)
	}
	if !a.opts.Echo {
		return
	}
	_, err := io.Copy(c, c)
	if err != nil || a.opts.CloseOnEOF {
		_ = c.Close()
	}
}
