package engine

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
)

// filled is a flow whose engine has n states of as many clients.
func filled(tb testing.TB, n int) *flow {
	f := newFlow(scenarioConfig(tb, []string{"states=2000000"}))
	f.send(f.client, syn, packet.ConnNone)
	p := f.p
	for i := range n - 1 {
		binary.BigEndian.PutUint32(p.Src[12:], uint32(i))
		f.engine.Handle(0, &p, &f.d)
	}
	if f.engine.Len() != n {
		tb.Fatalf("%d states, want %d", f.engine.Len(), n)
	}
	return f
}

// A listing names each state once, whatever comes and goes meanwhile in places
// that were looked at or not.
func TestStatesWhileTheyChange(t *testing.T) {
	const n = 40_000 // several parts in each shard
	f := filled(t, n)
	seen := make(map[packet.Tuple]int)
	p, d := f.p, Decision{}
	err := f.engine.States(0, func(l *Listed) error {
		seen[l.Tuple]++
		if len(seen)%4 == 0 { // another one comes
			p.SrcPort = uint16(len(seen))
			f.engine.Handle(0, &p, &d)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, times := range seen {
		if times != 1 {
			t.Errorf("%v listed %d times", key, times)
		}
	}
	if len(seen) < n || len(seen) > f.engine.Len() {
		t.Errorf("%d listed, %d were there throughout, and %d are at the end", len(seen), n, f.engine.Len())
	}
}

// A listing takes the memory of a part, however many states there are.
func TestStatesMemory(t *testing.T) {
	f := filled(t, 40_000)
	list := func() { _ = f.engine.States(0, func(*Listed) error { return nil }) }
	if n := testing.AllocsPerRun(3, list); n > 10 {
		t.Errorf("%v allocations", n)
	}
}

// A million states listed, while packets of theirs come in: how long the listing
// takes, and the longest that a packet waited.
func BenchmarkStates(b *testing.B) {
	f := filled(b, 1_000_000)
	var longest atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		p, d := f.p, Decision{}
		for i := uint32(0); ; i = (i + 1) % 900_000 {
			select {
			case <-stop:
				return
			default:
			}
			binary.BigEndian.PutUint32(p.Src[12:], i)
			began := time.Now()
			f.engine.Handle(0, &p, &d)
			longest.Store(max(longest.Load(), int64(time.Since(began))))
		}
	}()
	b.ResetTimer()
	for b.Loop() {
		n := 0
		_ = f.engine.States(0, func(l *Listed) error { n += len(l.RuleName); return nil })
	}
	b.StopTimer()
	close(stop)
	<-done
	b.ReportMetric(float64(longest.Load())/1e6, "ms-longest-wait")
}

// The parts of a shard are all of it, whatever their size.
func TestParts(t *testing.T) {
	f := filled(t, 1000)
	for size := 1; size < 40; size++ {
		n := 0
		for i := range f.engine.table.Shards() {
			sh := f.engine.table.LockShard(i)
			for place := sh.Part(0, size, func(*conntrack.State) { n++ }); place != 0; {
				place = sh.Part(place, size, func(*conntrack.State) { n++ })
			}
			sh.Unlock()
		}
		if n != 1000 {
			t.Errorf("in parts of %d: %d states", size, n)
		}
	}
}
