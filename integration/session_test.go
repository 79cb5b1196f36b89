package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// sessionInterval is between two messages of a session.
	sessionInterval = 200 * time.Millisecond
	// sessionPatience is how long an answer may take before the session is lost.
	sessionPatience = 15 * time.Second
)

// A session is a long connection to a server that echoes, on which something is said all
// the time.
type session struct {
	conn      *net.TCPConn
	to        netip.AddrPort
	expected  atomic.Bool  // its end is
	exchanges atomic.Int64 // messages that have come back

	// The longest that a message took to come back since waits was called, and one that
	// TCP had to send again, which a busy machine alone does not make it do; nanoseconds.
	longest, again atomic.Int64

	resent uint32 // segments that were sent again
	err    error  // why it ended; of interest when it has
}

// sessions are many of them.
type sessions struct {
	mu   sync.Mutex // guards list: sessions are added while others look
	list []*session

	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup
}

func newSessions(ctx context.Context) *sessions {
	s := &sessions{}
	s.ctx, s.stop = context.WithCancel(ctx)
	return s
}

// add has something said on a connection from now on.
func (s *sessions) add(c *net.TCPConn) *session {
	k := &session{conn: c, to: addrPortOf(c.RemoteAddr())}
	s.mu.Lock()
	s.list = append(s.list, k)
	s.mu.Unlock()
	s.wg.Go(func() { k.err = k.talk(s.ctx) })
	return k
}

// all are those there are.
func (s *sessions) all() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// talk says something and hears it, until ctx ends or the connection does.
func (k *session) talk(ctx context.Context) error {
	message := []byte(fmt.Sprintf("%-32v", k.conn.LocalAddr()))
	answer := make([]byte, len(message))
	for ctx.Err() == nil {
		start := time.Now()
		_ = k.conn.SetDeadline(start.Add(sessionPatience))
		if _, err := k.conn.Write(message); err != nil {
			return err
		}
		if _, err := io.ReadFull(k.conn, answer); err != nil {
			return err
		}
		if string(answer) != string(message) {
			return fmt.Errorf("said %q, heard %q", message, answer)
		}
		took := time.Since(start)
		k.took(took)
		select {
		case <-ctx.Done():
		case <-time.After(sessionInterval - min(took, sessionInterval)):
		}
	}
	return nil
}

// took notes how long a message took to come back.
func (k *session) took(d time.Duration) {
	k.longest.Store(max(k.longest.Load(), int64(d)))
	if resent := resent(k.conn); resent > k.resent {
		k.resent = resent
		k.again.Store(max(k.again.Load(), int64(d)))
	}
	k.exchanges.Add(1)
}

// resent is how many segments a socket has sent again.
func resent(c *net.TCPConn) (n uint32) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0 // it is closed
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Total_retrans
		}
	})
	return n
}

// round waits until each session that lives has said something and heard it.
func (s *sessions) round(ctx context.Context) error {
	all := s.all()
	before := make([]int64, len(all))
	for i, k := range all {
		before[i] = k.exchanges.Load()
	}
	for i, k := range all {
		if err := Poll(ctx, func() bool { return k.expected.Load() || k.exchanges.Load() >= before[i]+2 }); err != nil {
			return fmt.Errorf("the session %v to %v stands still", k.conn.LocalAddr(), k.to)
		}
	}
	return nil
}

// waits are the longest that any session had to wait for an answer since the last call,
// and the longest for which something was sent again.
func (s *sessions) waits() (longest, again time.Duration) {
	for _, k := range s.all() {
		longest = max(longest, time.Duration(k.longest.Swap(0)))
		again = max(again, time.Duration(k.again.Swap(0)))
	}
	return longest, again
}

// end has all sessions fall silent, with their connections open, and returns those that
// were lost.
func (s *sessions) end() (lost []*session) {
	s.stop()
	s.wg.Wait()
	for _, k := range s.all() {
		if k.err != nil && !k.expected.Load() {
			lost = append(lost, k)
		}
	}
	return lost
}

func (k *session) String() string {
	return fmt.Sprintf("%v to %v: %v", k.conn.LocalAddr(), k.to, k.err)
}
