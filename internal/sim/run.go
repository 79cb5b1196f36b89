package sim

import (
	"fmt"
	"strings"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/synproxy/cookie"
)

const (
	clients = 4
	keyLife = 15 * time.Second
)

// Run is one run of the seed. Its error lists all that was not as promised.
func Run(o Options) error {
	w := newWorld(o)
	for c := range byte(clients) {
		w.every(time.Duration(50+w.rand.IntN(500))*time.Millisecond, openFor, w.rand, func() { w.connect(c + 1) })
	}
	if w.rand.IntN(2) == 0 {
		w.every(20*time.Millisecond, openFor, w.rand, w.noise)
	}
	hostile := w.rand.IntN(3) == 0
	if hostile {
		w.every(100*time.Millisecond, openFor, w.rand, w.inexact)
	}
	if w.rand.IntN(3) == 0 {
		w.every(50*time.Millisecond, openFor, w.rand, w.trick)
	}
	w.ticks(100*time.Millisecond, runFor)
	w.every(keyLife, runFor, w.rand, func() { w.gateway.engine.RotateKey(cookie.Key{w.rand.Uint64(), 3}) })
	w.clock.run(openFor / 2)
	w.recount()
	w.clock.run(runFor)
	w.recount()
	w.outcomes()
	w.ticks(time.Second, drainFor)
	w.clock.run(runFor + drainFor)
	w.leftovers()
	if len(w.failures) == 0 {
		return nil
	}
	return fmt.Errorf("seed %d (%v, cookies %v, limit %d):\n%s", o.Seed, w.policy, w.cookies, w.limit, strings.Join(w.failures, "\n"))
}

// ticks calls the daemon's clock for a time from now on.
func (w *world) ticks(interval, during time.Duration) {
	end := w.clock.now + during
	var next func()
	next = func() {
		w.gateway.tick()
		if w.clock.now+interval <= end {
			w.clock.after(interval, next)
		}
	}
	w.clock.after(interval, next)
}

// recount holds the counts of the sources against one made of the states.
func (w *world) recount() {
	counted := make(map[string]int)
	_ = w.gateway.engine.States(w.clock.now, func(l *engine.Listed) error {
		if l.Counting {
			counted[l.Tuple.Src.Netip().String()]++
		}
		return nil
	})
	w.gateway.engine.Sources(func(k conntrack.SourceKey, slots int) {
		source := k.Prefix.Addr().String()
		if counted[source] != slots {
			w.failf("%s has %d slots taken, and %d states that count", source, slots, counted[source])
		}
		if slots > w.limit {
			w.failf("%s has %d slots taken of %d", source, slots, w.limit)
		}
	})
}

// outcomes holds that every honest connection came to an end its client knows of.
func (w *world) outcomes() {
	for _, s := range w.honest {
		// Only the last ACK may be missing: nothing is lost with it.
		complete := s.peerFIN && s.wantSend == 0
		heard := s.rcvNxt != 0 // at least once: else the network ate every SYN
		lost := s.outcome == pending || s.outcome == gaveUp && heard && !complete && !w.server.silent
		if lost && !w.spoofed[s.tuple] {
			w.failf("%v: outcome %d, state %d, sent %d to go, received %d, FIN %v %v %v", s.tuple, s.outcome, s.state,
				s.wantSend, s.received, s.finSent, s.finAcked, s.peerFIN)
		}
	}
}

// leftovers holds that nothing outlives the connections.
func (w *world) leftovers() {
	if n := w.gateway.engine.Len(); n > 0 {
		w.failf("%d states are left", n)
	}
	w.gateway.engine.Sources(func(k conntrack.SourceKey, slots int) {
		w.failf("source %v is left, with %d slots", k.Prefix, slots)
	})
	for k, e := range w.gateway.entries {
		if e.diff != 0 {
			w.failf("a translating entry is left: %v", k)
		}
	}
}
