package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The sources of a soak. Each kind has its own range, of each server.
const (
	honestSources  = 200 // connect for a short time each, again and again
	sessionSources = 5   // have a session each
	attackSources  = 2   // hold as many connections as they get, and ask for more
	soakSources    = 1000

	sessionFirst, attackFirst = 300, 400
)

const (
	soakWorkers   = 3                      // honest clients at a time
	soakPause     = 10 * time.Millisecond  // between two connections of a worker
	attackPause   = 400 * time.Millisecond // between two rounds of an attacker
	attackTries   = 3                      // connections over the limit
	floodInterval = 5 * time.Millisecond   // between two spoofed packets
	quietTime     = 200 * time.Millisecond // after an announced window: answers are still on their way
)

// window is a time in which new connections may fail, as was announced.
type window struct {
	begin, end time.Time // end is zero while it lasts
	why        string
}

// honest are the clients none of whose connections may fail but in a window.
type honest struct {
	served, excused atomic.Int64

	mu       sync.Mutex // guards what follows
	windows  []window
	failures []string
}

// announce begins a window, which lasts until the returned function is called.
func (h *honest) announce(why string) (over func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := len(h.windows)
	h.windows = append(h.windows, window{begin: time.Now(), why: why})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.windows[i].end = time.Now().Add(quietTime)
	}
}

// failed notes that a connection that began then has failed.
func (h *honest) failed(began time.Time, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for _, w := range h.windows {
		if began.Before(w.end) || w.end.IsZero() {
			if now.After(w.begin) {
				h.excused.Add(1)
				return
			}
		}
	}
	h.failures = append(h.failures, fmt.Sprintf("%s %s", now.Format("15:04:05.000"), what))
}

// work has honest clients connect to servers, one after the other, until ctx ends.
func (s *soak) work(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		k := s.servers[r.IntN(len(s.servers))]
		load := ShortLoad{Client: s.lab.Client, To: k.short}
		began := time.Now()
		if _, err := load.once(ctx, netip.AddrPortFrom(k.source(r.IntN(honestSources)), 0)); err == nil {
			s.honest.served.Add(1)
		} else if ctx.Err() == nil {
			s.honest.failed(began, fmt.Sprintf("%s: %v", k.name, err))
		}
		time.Sleep(soakPause)
	}
}

// attack has a source hold all it gets of a server, and ask for more.
func (s *soak) attack(ctx context.Context, k *soaked, from netip.Addr) {
	for ctx.Err() == nil {
		s.attacks.RLock()
		h := s.lab.Client.Hold(ctx, HoldOptions{From: from, To: k.long, N: soakMostConns + attackTries, Concurrency: 3, Timeout: time.Second})
		s.attacked.Add(int64(len(h.Attempts)))
		s.attacks.RUnlock()
		select {
		case <-ctx.Done():
		case <-time.After(attackPause):
		}
		_ = h.Close()
	}
}

// flood sends SYNs and ACKs in the names of sources that do not exist and of honest
// ones, until ctx ends.
func (s *soak) flood(ctx context.Context, r *rand.Rand) {
	flags := []byte{flagSYN, flagACK, flagFIN | flagACK}
	for ctx.Err() == nil {
		k := s.servers[r.IntN(len(s.servers))]
		src := AbsentAddr(k.family, r.IntN(benchRange))
		if r.IntN(10) == 0 {
			src = k.source(r.IntN(honestSources))
		}
		p := rawPacket{
			src: netip.AddrPortFrom(src, uint16(1024+r.IntN(9000))), dst: k.short, // no port that the kernel chooses
			seq: r.Uint32(), ack: r.Uint32(), flags: flags[r.IntN(len(flags))],
		}
		if err := s.wires[k.family].send(p.octets()); err == nil || errors.Is(err, unix.ENOBUFS) {
			s.flooded.Add(1)
		} else {
			s.t.Errorf("flood: %v", err)
			return
		}
		time.Sleep(floodInterval)
	}
}

// watch looks each second how many connections of each attacker its server holds.
func (s *soak) watch(ctx context.Context) {
	clock := time.NewTicker(time.Second)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-clock.C:
		}
		s.attacks.RLock() // while there are no hooks they may have more
		s.judge()
		s.attacks.RUnlock()
		s.sample()
	}
}

// judge holds that no source has more than the highest limit there was, and that of one
// moment: a socket counts that is in two listings in a row.
func (s *soak) judge() {
	held := func() (list []Socket) {
		for _, n := range []*Namespace{s.lab.Server, s.lab.Gateway} {
			sockets, err := n.Sockets(Established, CloseWait)
			if err != nil {
				s.t.Errorf("sockets: %v", err)
			}
			list = append(list, sockets...)
		}
		return list
	}
	before, count := held(), make(map[string]int)
	for _, k := range held() {
		if slices.ContainsFunc(before, func(b Socket) bool { return b.Cookie == k.Cookie }) {
			count[fmt.Sprintf("%v of %v", k.Local, k.Remote.Addr())]++
		}
	}
	for what, n := range count {
		s.most = max(s.most, n)
		if n > soakMostConns {
			s.t.Errorf("%v holds %d, the limit is %d at most", what, n, soakMostConns)
		}
	}
}
