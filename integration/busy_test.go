package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// busy are connections to servers that echo, on which something is said all the time.
type busy struct {
	t      *testing.T
	conns  []*net.TCPConn
	halt   chan struct{}
	ending sync.Once
	talks  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	lost   []error
	rounds int
	worst  time.Duration // from a word to its echo
}

const (
	busyPause     = 40 * time.Millisecond // between an echo and the next word
	busyPatience  = 15 * time.Second      // for an echo
	busyPerSource = 10
)

// busySource is the i-th source that keepBusy uses for the k-th server.
func (g *guarded) busySource(k, i int) netip.Addr { return g.source(1000*k + i) }

// keepBusy opens n connections to each server, ten of a source, and has them talk until
// the test ends.
func keepBusy(t *testing.T, all []*guarded, n int) *busy {
	t.Helper()
	b := &busy{t: t, halt: make(chan struct{})}
	for k, g := range all {
		for i := 0; i < n; i += busyPerSource {
			h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, i/busyPerSource), To: g.srv.Addr(), N: min(busyPerSource, n-i), Concurrency: 5})
			if h.Count(Held) != len(h.Attempts) {
				t.Fatalf("%v, want all held", h)
			}
			b.conns = append(b.conns, h.Conns()...)
		}
	}
	for i, c := range b.conns {
		b.talks.Go(func() { b.talk(i, c) })
	}
	t.Cleanup(func() { b.stop() })
	return b
}

func (b *busy) talk(number int, c *net.TCPConn) {
	word, heard := make([]byte, 16), make([]byte, 16)
	for n := 0; ; n++ {
		select {
		case <-b.halt:
			return
		case <-time.After(busyPause):
		}
		copy(word, fmt.Sprintf("%7d%7d", number, n))
		began := time.Now()
		_ = c.SetDeadline(began.Add(busyPatience))
		_, err := c.Write(word)
		if err == nil {
			_, err = io.ReadFull(c, heard)
		}
		if err == nil && !bytes.Equal(word, heard) {
			err = fmt.Errorf("%v: said %q and heard %q", c.LocalAddr(), word, heard)
		}
		if !b.note(time.Since(began), err) {
			return
		}
	}
}

// note counts a word, and says whether to go on.
func (b *busy) note(took time.Duration, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.lost = append(b.lost, err)
		return false
	}
	b.rounds++
	b.worst = max(b.worst, took)
	return true
}

// takeWorst is the longest that an echo took since this was asked, and how many came.
func (b *busy) takeWorst() (worst time.Duration, rounds int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	worst, rounds = b.worst, b.rounds
	b.worst, b.rounds = 0, 0
	return worst, rounds
}

// stop ends the talk.
func (b *busy) stop() {
	b.ending.Do(func() { close(b.halt) })
	b.talks.Wait()
}

// expectNoneLost holds that all connections live: each has said something from now on,
// and none was lost.
func (b *busy) expectNoneLost(what string) {
	b.t.Helper()
	b.stop()
	for _, c := range b.conns {
		if err := sayWord(c); err != nil {
			b.note(0, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Logf("%s: of %d connections %d lost, %d echoes, the longest after %v", what, len(b.conns), len(b.lost), b.rounds, b.worst.Round(time.Millisecond))
	if len(b.lost) > 0 {
		b.t.Errorf("%s: %d of %d connections lost, the first: %v", what, len(b.lost), len(b.conns), b.lost[0])
	}
}

func sayWord(c *net.TCPConn) error {
	_ = c.SetDeadline(time.Now().Add(busyPatience))
	if _, err := c.Write([]byte("word")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}
