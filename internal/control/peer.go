package control

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxClients = 32  // of the same peers that are answered at once; more of them wait
	maxWaiting = 256 // of the same peers that are not answered yet: the oldest makes room
)

var errBusy = errors.New("the daemon has too many clients at once; try again")

// peers are the clients of some users, who hold each other up and nobody else. It is
// safe for concurrent use.
type peers struct {
	room chan struct{} // of those that are answered

	mu      sync.Mutex
	waiting []*client // the oldest first
}

func newPeers() *peers { return &peers{room: make(chan struct{}, maxClients)} }

// client is one that has come. Its fields belong to the goroutine that serves it.
type client struct {
	net.Conn
	ctx     context.Context // ends with the server
	from    *peers
	dismiss chan struct{} // closed when it is to make room
	entered bool
}

// arrive has a client wait, in the place of the oldest one if there are too many. Its
// request is to come in time.
func (p *peers) arrive(ctx context.Context, c net.Conn, timeout time.Duration) *client {
	n := &client{Conn: c, ctx: ctx, from: p, dismiss: make(chan struct{})}
	_ = c.SetReadDeadline(time.Now().Add(timeout)) // fails for one that is closed, and so will the read
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == maxWaiting {
		oldest := p.waiting[0]
		p.waiting = slices.Delete(p.waiting, 0, 1)
		close(oldest.dismiss)
		_ = oldest.SetReadDeadline(time.Unix(1, 0)) // no more of its request is read
	}
	p.waiting = append(p.waiting, n)
	return n
}

// enter waits until there is room to answer a client, unless its request failed.
func (c *client) enter(failed error) error {
	select {
	case <-c.dismiss:
		return errBusy
	default:
	}
	if failed != nil {
		return failed
	}
	select {
	case <-c.dismiss:
		return errBusy
	case <-c.ctx.Done():
		return c.ctx.Err()
	case c.from.room <- struct{}{}:
		c.entered = true
		c.from.forget(c)
		return nil
	}
}

// leave makes room for the next.
func (p *peers) leave(c *client) {
	if c.entered {
		<-p.room
		return
	}
	p.forget(c)
}

// forget ends the waiting of a client.
func (p *peers) forget(c *client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, c); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
}

// userOf is the user that a client ran as when it connected.
func userOf(c net.Conn) (int, error) {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	ctl := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(ctl, err); err != nil {
		return 0, err
	}
	return int(who.Uid), nil
}
