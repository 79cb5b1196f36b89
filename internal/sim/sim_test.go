package sim

import (
	"flag"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"nfqfw/internal/seedtest"
)

var runs = flag.Int("runs", 8000, "how many seeds to run")

// maxShown is how many failing seeds a campaign prints.
const maxShown = 5

// TestCampaign runs many seeds, or one alone with all that the gateway sees.
func TestCampaign(t *testing.T) {
	from := seedtest.First()
	if seedtest.Alone() {
		if err := Run(Options{Seed: from, Trace: func(line string) { t.Log(line) }}); err != nil {
			t.Error(err)
		}
		return
	}
	debug.SetGCPercent(400) // little lives long, and nothing of it is large
	began := time.Now()
	var group errgroup.Group
	var failed atomic.Int32
	var next atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < uint64(*runs); i = next.Add(1) - 1 {
				if err := Run(Options{Seed: from + i}); err != nil && failed.Add(1) <= maxShown {
					t.Errorf("%v\nreplay: make sim SEED=%d", err, from+i)
				}
			}
			return nil
		})
	}
	_ = group.Wait()
	took := time.Since(began)
	t.Logf("%d runs from seed %d on in %v, %.0f a second, %d failed", *runs, from, took.Round(time.Millisecond), float64(*runs)/took.Seconds(), failed.Load())
}

// The same seed gives the same run, whatever was run before in the same memory.
func TestReplay(t *testing.T) {
	trace := func(seed uint64) string {
		var b strings.Builder
		_ = Run(Options{Seed: seed, Trace: func(line string) { b.WriteString(line + "\n") }})
		return b.String()
	}
	for seed := range uint64(50) {
		before := trace(seed)
		_ = Run(Options{Seed: seed + 1000})
		if after := trace(seed); before != after {
			t.Fatalf("two runs of seed %d differ", seed)
		}
	}
}
