package nfq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
)

// judge is a Handler made of functions.
type judge struct {
	handle func(*Message)
	flush  func()
}

func (j judge) Handle(m *Message) { j.handle(m) }
func (j judge) Flush() {
	if j.flush != nil {
		j.flush()
	}
}

func pass(m *Message) { m.Answer(packet.Pass, 0) }

// start opens queue 7 and runs it with h until the test ends.
func start(t testing.TB, c Config, h Handler) *Queue {
	t.Helper()
	c.Number = 7
	q, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- q.Run(context.Background(), h) }()
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitRunning(t, q)
	return q
}

// waitRunning waits until the kernel sends packets.
func waitRunning(t testing.TB, q *Queue) {
	t.Helper()
	for range 1000 {
		if s, ok, err := Stats(q.config.Number); err != nil {
			t.Fatal(err)
		} else if ok && s.CopyMode == copyPacket {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("the queue does not run")
}

// send sends the numbers from 0 to n, and says which arrived.
func sendNumbers(t testing.TB, client, server *net.UDPConn, n int) (arrived []int) {
	t.Helper()
	go func() {
		for i := range n {
			_, _ = client.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
			if i%256 == 255 {
				time.Sleep(time.Millisecond) // under the queue's limit
			}
		}
	}()
	b := make([]byte, 4)
	for len(arrived) < n {
		_ = server.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := server.Read(b); err != nil {
			break
		}
		arrived = append(arrived, int(binary.BigEndian.Uint32(b)))
	}
	return arrived
}

// number is the one that sendNumbers put into a packet.
func number(m *Message) int { return int(binary.BigEndian.Uint32(m.Payload[28:])) }

const queueUDP = "iptables -w -A OUTPUT -p udp -j NFQUEUE --queue-num 7"

func TestPassesEveryPacket(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	q := start(t, Default(), judge{handle: pass})
	const n = 10_000
	if got := sendNumbers(t, client, server, n); len(got) != n {
		t.Errorf("%d of %d packets arrived; %+v", len(got), n, q.Counters())
	}
	c := q.Counters()
	if c.Packets != n || c.Passed != n || c.Dropped != 0 || c.Malformed+c.VerdictErrors+c.Overruns+c.Panics != 0 {
		t.Errorf("counters %+v", c)
	}
	s, ok, err := Stats(7)
	if !ok || err != nil || s.Waiting != 0 || s.QueueDropped+s.QueueUserDropped != 0 || s.LastID != n {
		t.Errorf("stats %+v, %v, %v", s, ok, err)
	}
}

// Rows of drops of every length, between packets that pass: each gets its own verdict.
func TestDropsInARow(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	const n = 10_000
	pattern := newPattern(n)
	q := start(t, Default(), judge{handle: func(m *Message) {
		if pattern[number(m)] {
			pass(m)
		}
	}})
	var want []int
	for i, passes := range pattern {
		if passes {
			want = append(want, i)
		}
	}
	if got := sendNumbers(t, client, server, n); !slices.Equal(got, want) {
		t.Errorf("%d arrived, want %d", len(got), len(want))
	}
	if s, ok, err := Stats(7); !ok || err != nil || s.Waiting != 0 || s.LastID != n {
		t.Errorf("stats %+v, %v, %v", s, ok, err)
	}
	if c := q.Counters(); c.Packets != n || c.VerdictErrors != 0 || c.Passed != uint64(len(want)) {
		t.Errorf("counters %+v", c)
	}
}

// newPattern says of n packets which pass: of rows of up to 100 that do and do not.
func newPattern(n int) []bool {
	r := rand.New(rand.NewPCG(3, 4))
	var p []bool
	for passes := true; len(p) < n; passes = !passes {
		p = append(p, slices.Repeat([]bool{passes}, 1+r.IntN(1+r.IntN(100)))...)
	}
	return p[:n]
}

func TestMixedVerdictsAndMarks(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, "iptables -w -t mangle -A OUTPUT -p udp -j MARK --set-mark 0x80000005")
	netnstest.Run(t, queueUDP)
	// Count what comes out by mark, the user's bits included.
	netnstest.Run(t, "iptables -w -A INPUT -p udp -m mark --mark 0x20000005 -j ACCEPT")
	netnstest.Run(t, "iptables -w -A INPUT -p udp -m mark --mark 0x00000005 -j ACCEPT")
	netnstest.Run(t, "iptables -w -A INPUT -p udp -j DROP")
	var wrong sync.Map
	start(t, Default(), judge{handle: func(m *Message) {
		if m.Mark != 0x80000005 || m.InDev != 0 || m.Total != 32 {
			wrong.Store(fmt.Sprintf("%+v", *m), true)
		}
		switch number(m) % 3 {
		case 0:
			m.Answer(packet.Pass, packet.MarkTrack)
		case 1:
			m.Answer(packet.Pass, 0)
		}
	}})
	if got := sendNumbers(t, client, server, 300); len(got) != 200 {
		t.Errorf("%d packets arrived, want 200", len(got))
	}
	wrong.Range(func(m, _ any) bool { t.Error(m); return false })
	rules := netnstest.Run(t, "iptables -w -nvxL INPUT")
	if strings.Count(rules, "     100     3200 ACCEPT") != 2 || !strings.Contains(rules, "       0        0 DROP") {
		t.Error(rules)
	}
}

func TestLongPacketIsCut(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	seen := make(chan [2]int, 1)
	start(t, Default(), judge{handle: func(m *Message) { seen <- [2]int{len(m.Payload), m.Total}; pass(m) }})
	_, _ = client.Write(make([]byte, 1000))
	if got, want := <-seen, [2]int{256, 1028}; got != want {
		t.Errorf("captured and total %v, want %v", got, want)
	}
	_ = server.SetReadDeadline(time.Now().Add(time.Second))
	if n, err := server.Read(make([]byte, 2000)); n != 1000 || err != nil {
		t.Errorf("%d octets arrived, %v", n, err)
	}
}

func TestPanicIsAnswered(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	var log lockedBuffer
	c := Default()
	c.Batch = 1
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	q := start(t, c, judge{
		handle: func(m *Message) {
			m.Answer(packet.Pass, 0)
			if number(m)%2 == 1 {
				panic("odd")
			}
		},
		flush: func() { panic("flush") },
	})
	if got := sendNumbers(t, client, server, 60); len(got) != 30 {
		t.Errorf("%d packets arrived, want 30", len(got))
	}
	if s, _, _ := Stats(7); s.Waiting != 0 {
		t.Errorf("%d packets without a verdict", s.Waiting)
	}
	if n := q.Counters().Panics; n != 90 {
		t.Errorf("%d panics, want 90", n)
	}
	if n := strings.Count(log.String(), "panic while judging"); n == 0 || n > 5 {
		t.Errorf("%d log lines", n)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestFlushBeforeVerdicts(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	flushed := make(chan int, 1)
	start(t, Default(), judge{handle: pass, flush: func() {
		_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, _ := server.Read(make([]byte, 100))
		flushed <- n
	}})
	_, _ = client.Write([]byte("x"))
	if n := <-flushed; n != 0 {
		t.Error("the packet was there before Flush returned")
	}
}

func TestOpenTaken(t *testing.T) {
	netnstest.New(t)
	start(t, Default(), judge{handle: pass})
	c := Default()
	c.Number = 7
	q, err := Open(c)
	if err == nil {
		q.Close()
		t.Fatal("two sockets have the queue")
	}
	if !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "nfq: open queue 7: taken by another process (netlink port ") {
		t.Error(err)
	}
}

func TestCancelIsQuick(t *testing.T) {
	netnstest.New(t)
	before := runtime.NumGoroutine()
	for range 20 {
		c := Default()
		c.Number = 7
		q, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- q.Run(ctx, judge{handle: pass}) }()
		waitRunning(t, q)
		began := time.Now()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 200*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if _, ok, _ := Stats(7); ok {
			t.Error("still bound")
		}
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func TestCloseWithoutRun(t *testing.T) {
	netnstest.New(t)
	c := Default()
	c.Number = 7
	q, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if err := q.Run(context.Background(), judge{handle: pass}); err == nil {
		t.Error("runs though closed")
	}
}

func TestCancelledBeforeRun(t *testing.T) {
	netnstest.New(t)
	c := Default()
	c.Number = 7
	q, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := q.Run(ctx, judge{handle: pass}); err != nil {
		t.Error(err)
	}
}

// TestOpenAndStopUnderLoad opens and stops the queue again and again while
// packets keep coming.
func TestOpenAndStopUnderLoad(t *testing.T) {
	netnstest.New(t)
	client, _ := udpPair(t)
	netnstest.Run(t, queueUDP)
	stop := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := 0; i < 1_000_000; i++ {
			select {
			case <-stop:
				return
			default:
				_, _ = client.Write([]byte("load"))
			}
		}
	})
	defer sender.Wait()
	defer close(stop)
	for range 20 {
		c := Default()
		c.Number = 7
		q, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		seen := make(chan struct{}, 1)
		ended := make(chan error, 1)
		go func() {
			ended <- q.Run(ctx, judge{handle: func(m *Message) {
				select {
				case seen <- struct{}{}:
				default:
				}
				pass(m)
			}})
		}()
		select {
		case <-seen:
		case <-time.After(5 * time.Second):
			t.Fatal("no packet")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if c := q.Counters(); c.VerdictErrors+c.Malformed != 0 {
			t.Errorf("counters %+v", c)
		}
	}
}

// TestAllocations counts over some thousand packets, the sender's included.
func TestAllocations(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	q := start(t, Default(), judge{handle: pass})
	b := make([]byte, 4)
	roundTrip := func() {
		_, _ = client.Write(b)
		_, _ = server.Read(b)
	}
	_ = server.SetReadDeadline(time.Now().Add(30 * time.Second))
	const n = 5000
	roundTrip()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		roundTrip()
	}
	runtime.ReadMemStats(&after)
	if got := after.Mallocs - before.Mallocs; got > n/10 {
		t.Errorf("%d allocations for %d packets", got, n)
	}
	if c := q.Counters(); c.Packets != n+1 {
		t.Errorf("counters %+v", c)
	}
}

// A socket without room loses packets, which are counted, and the queue goes on: a
// packet that was not lost is answered, and so are all later ones.
func TestTinyReadBuffer(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	c := Default()
	c.ReadBuffer = 1 // the kernel makes it the least there is
	var slow atomic.Bool
	slow.Store(true)
	q := start(t, c, judge{handle: func(m *Message) {
		if slow.Load() {
			time.Sleep(100 * time.Microsecond)
		}
		pass(m)
	}})
	const n = 2000
	for i := range n {
		_, _ = client.Write(binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	waitJudged(t, q, n)
	s, _, err := Stats(7)
	if err != nil || s.QueueUserDropped == 0 || s.Waiting != 0 {
		t.Errorf("stats %+v, %v: want some dropped for want of room, and none waiting", s, err)
	}
	if judged := q.Counters().Packets; judged+uint64(s.QueueUserDropped+s.QueueDropped) != n {
		t.Errorf("%d judged and %d dropped of %d", judged, s.QueueUserDropped+s.QueueDropped, n)
	}
	drainNumbers(server)
	slow.Store(false)
	for i := range 100 {
		if got := sendNumbers(t, client, server, 1); len(got) != 1 {
			t.Fatalf("packet %d after it did not arrive", i)
		}
	}
}

// waitJudged waits until of n packets that were sent none is left.
func waitJudged(t *testing.T, q *Queue, n uint64) {
	t.Helper()
	for range 1000 {
		s, _, err := Stats(q.config.Number)
		if err != nil {
			t.Fatal(err)
		}
		if q.Counters().Packets+uint64(s.QueueUserDropped+s.QueueDropped) >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("packets wait for ever: %+v", q.Counters())
}

// drainNumbers reads what has arrived.
func drainNumbers(server *net.UDPConn) {
	_ = server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for b := make([]byte, 4); ; {
		if _, err := server.Read(b); err != nil {
			return
		}
	}
}
