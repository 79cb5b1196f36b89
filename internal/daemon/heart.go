package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	feelInterval = time.Second      // between two looks at the hearts
	slowAfter    = 10 * time.Second // of work without progress, a loop is told of
	stuckAfter   = 30 * time.Second // and the daemon ends
)

// heart shows the progress of a loop, to which it belongs. A loop that waits for work
// rests; one that works is stuck if it does not beat. It counts, and knows no time: a
// process that was stopped for a while has stuck nowhere.
type heart struct {
	loop  string
	beats atomic.Uint64 // odd: at work
}

// beat says that the loop is at work, and has done some since the last beat.
func (h *heart) beat() { h.beats.Store(h.beats.Load() + 2 | 1) }

// rest says that the loop waits for work.
func (h *heart) rest() { h.beats.Store((h.beats.Load() + 2) &^ 1) }

// pulse is what a watchdog has seen of a heart.
type pulse struct {
	*heart
	beats   uint64
	missing time.Duration // how long there has been no beat
	told    bool
}

// watchdog sees to it that a daemon which cannot go on comes to an end, so that it is
// started again: packets would wait for ever. Its hooks stay, and new connections are
// dealt with as when_down says.
type watchdog struct {
	log      *slog.Logger
	pulses   []pulse
	interval time.Duration
	healthy  func()         // called at each look at which every loop goes on
	end      func(code int) // ends the process; nothing that could wait for a loop is sure to
}

func newWatchdog(hearts []*heart, interval time.Duration, healthy func(), log *slog.Logger) *watchdog {
	w := &watchdog{log: log, interval: interval, healthy: healthy, end: os.Exit}
	for _, h := range hearts {
		w.pulses = append(w.pulses, pulse{heart: h})
	}
	return w
}

// run looks until ctx ends.
func (w *watchdog) run(ctx context.Context) error {
	clock := time.NewTicker(w.interval)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-clock.C:
			w.look()
		}
	}
}

func (w *watchdog) look() {
	well := true
	for i := range w.pulses {
		p := &w.pulses[i]
		p.feel(w.interval)
		well = well && p.missing == 0
		switch {
		case p.missing >= stuckAfter:
			w.log.Error("ending, to be started again: a loop is stuck", "loop", p.loop, "for", p.missing)
			w.end(1)
		case p.missing >= slowAfter && !p.told:
			p.told = true
			w.log.Error("a loop makes no progress", "loop", p.loop, "for", p.missing, "stacks", stacks())
		case p.missing == 0 && p.told:
			p.told = false
			w.log.Info("a loop goes on again", "loop", p.loop)
		}
	}
	if well {
		w.healthy()
	}
}

// feel notes whether the heart has beaten since the last time, an interval ago.
func (p *pulse) feel(interval time.Duration) {
	n := p.heart.beats.Load()
	if atWork := n&1 == 1; atWork && n == p.beats {
		p.missing += interval
	} else {
		p.missing = 0
	}
	p.beats = n
}

// maxStacks is how many octets of stacks are logged at most.
const maxStacks = 64 << 10

// stacks are those of all goroutines: what a loop waits for, another one holds.
func stacks() string {
	b := make([]byte, maxStacks)
	n := runtime.Stack(b, true)
	if n == len(b) {
		return fmt.Sprintf("%s… (cut)", b)
	}
	return string(b[:n])
}
