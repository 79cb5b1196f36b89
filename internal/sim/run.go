package sim

import (
	"fmt"
	"strings"
	"time"

	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

const (
	keyLife = 15 * time.Second
	// horizon is when nothing may be left. Clients that wait are done long before; a
	// server that is asked whether it holds a connection has two minutes to answer.
	horizon = 600 * time.Second
)

// Options describe a run.
type Options struct {
	Seed  uint64
	Trace func(line string) // what the gateway sees and does; nil: nobody listens
}

// Run is one run of the seed. Its error lists all that was not as promised.
func Run(o Options) error {
	w := newWorld(o)
	defer worlds.Put(w)
	w.begin()
	w.pass(w.story.openFor / 2)
	w.recount()
	w.pass(w.story.openFor)
	w.recount()
	w.pass(horizon)
	w.outcomes()
	w.leftovers()
	if len(w.failures) == 0 {
		return nil
	}
	return fmt.Errorf("seed %d (%v):\n%s", o.Seed, &w.story, strings.Join(w.failures, "\n"))
}

// begin plans what is to happen.
func (w *world) begin() {
	for range (w.connections + 1) / 2 { // the others are begun as these end
		w.connections--
		t := clientTuple(byte(1+w.rand.IntN(w.story.clients)), firstPort+w.rand.IntN(w.story.ports), w.anyPort())
		w.clock.after(time.Duration(w.rand.Int64N(int64(w.story.openFor))), func() { w.connect(t) })
	}
	w.hostility()
	w.every(w.story.operator.reloads, w.reload)
	w.every(w.story.operator.kills, w.kill)
	if w.story.kind != foul {
		w.watch()
	}
	if w.story.gateway.flushes {
		w.every(w.story.openFor/2, w.flush)
	}
	if w.story.server.reboots {
		w.clock.after(time.Duration(w.rand.Int64N(int64(w.story.openFor))), w.reboot)
	}
	if w.story.gateway.overruns {
		w.clock.after(time.Duration(w.rand.Int64N(int64(w.story.openFor))), func() { w.gateway.engine.Overrun(w.clock.now) })
	}
	if w.story.gateway.drains {
		w.clock.after(time.Duration(w.rand.Int64N(int64(w.story.openFor))), w.drain)
	}
	if w.story.gateway.cookies != synproxy.CookiesNever {
		w.clock.after(time.Duration(w.rand.Int64N(int64(keyLife))), w.rotate)
	}
}

func (w *world) drain() { w.gateway.engine.Drain(w.clock.now) }

// rotate gives the cookies a new key, as long as anything goes on.
func (w *world) rotate() {
	w.gateway.engine.RotateKey(cookie.Key{w.rand.Uint64(), 3})
	w.gateway.wake()
	if w.clock.next() < never {
		w.clock.after(keyLife, w.rotate)
	}
}

// flush empties the kernel's table.
func (w *world) flush() {
	clear(w.gateway.entries)
	if w.trace != nil {
		w.tracef("flush")
	}
}

// pass lets time pass until end, or until nothing is planned.
func (w *world) pass(end time.Duration) {
	for {
		next := w.clock.next()
		if at := w.gateway.tickAt; at <= next && at <= end {
			w.clock.now = at
			w.gateway.tick()
			continue
		}
		if next > end {
			break
		}
		w.clock.step()
	}
}
