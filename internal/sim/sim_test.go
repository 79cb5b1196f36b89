package sim

import (
	"flag"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

var (
	runs  = flag.Int("runs", 300, "how many seeds to run")
	first = flag.Uint64("first", 1, "the first of them; 0: the clock says")
	seed  = flag.Uint64("seed", 0, "run this seed alone, and show what the gateway sees")
)

func TestCampaign(t *testing.T) {
	if *seed != 0 {
		if err := Run(Options{Seed: *seed, Trace: func(line string) { t.Log(line) }}); err != nil {
			t.Error(err)
		}
		return
	}
	began := time.Now()
	from := *first
	if from == 0 {
		from = uint64(began.UnixNano())
	}
	var group errgroup.Group
	group.SetLimit(8)
	var failed atomic.Int32
	for i := range uint64(*runs) {
		group.Go(func() error {
			if err := Run(Options{Seed: from + i}); err != nil && failed.Add(1) <= 3 {
				t.Errorf("%v\nreplay: go test ./internal/sim -seed %d", err, from+i)
			}
			return nil
		})
	}
	_ = group.Wait()
	t.Logf("%d runs in %v, %d failed", *runs, time.Since(began).Round(time.Millisecond), failed.Load())
}

// The same seed gives the same run.
func TestReplay(t *testing.T) {
	a, b := newWorld(Options{Seed: 7}), newWorld(Options{Seed: 7})
	for _, w := range []*world{a, b} {
		w.every(100*time.Millisecond, openFor, w.rand, func() { w.connect(1) })
		w.ticks(100*time.Millisecond, openFor)
		w.clock.run(openFor)
	}
	if len(a.honest) == 0 || len(a.honest) != len(b.honest) || a.clock.serial != b.clock.serial {
		t.Errorf("two runs of one seed differ: %d and %d connections, %d and %d events",
			len(a.honest), len(b.honest), a.clock.serial, b.clock.serial)
	}
}
