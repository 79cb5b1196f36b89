package conntrack

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"nfqfw/internal/seedtest"
)

func sourceKey(a string) SourceKey { return SourceKey{Rule: 1, Prefix: netip.MustParsePrefix(a)} }

// However many connections try at once, no more than the limit have a slot.
func TestAdmitNeverOvershoots(t *testing.T) {
	const limit, tries = 10, 1000
	var nodes Nodes
	sources := NewSources(10, 1)
	states := make([]State, tries)
	src, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, &Limits{}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range states {
		states[i].Bind(src)
	}
	for range 20 {
		var wg sync.WaitGroup
		for i := range states {
			wg.Go(func() {
				states[i].Admit(&Limits{Conns: limit}, 0, false)
				if n := src.Slots(); n > limit {
					t.Errorf("%d slots of %d", n, limit)
				}
			})
		}
		wg.Wait()
		held := 0
		for i := range states {
			if states[i].Counts() {
				held++
			}
			states[i].Leave()
			states[i].Leave() // a second time gives nothing back
		}
		if held != limit || src.Slots() != 0 {
			t.Fatalf("%d held, %d left over", held, src.Slots())
		}
	}
}

func TestSourcesAreBoundedAndGo(t *testing.T) {
	var nodes Nodes
	sources := NewSources(1, 1)
	first, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, &Limits{}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, &Limits{}, 0, false)
	if err != nil || again != first {
		t.Fatalf("again: %v, %v", again, err)
	}
	if _, err := sources.Acquire(sourceKey("198.51.100.8/32"), &nodes, &Limits{}, 0, false); !errors.Is(err, ErrSources) {
		t.Errorf("second source: %v", err)
	}
	sources.Drop(first, 0)
	sources.Drop(again, 0)
	if sources.Len() != 0 {
		t.Errorf("%d sources left", sources.Len())
	}
	if _, err := sources.Acquire(sourceKey("198.51.100.8/32"), &nodes, &Limits{}, 0, false); err != nil {
		t.Errorf("after the first went: %v", err)
	}
}

// A source with a rate is remembered as long as its rule says, and no longer.
func TestSourceIsRemembered(t *testing.T) {
	var nodes Nodes
	sources := NewSources(10, 1)
	k, l := sourceKey("198.51.100.7/32"), &Limits{Rate: Rate{2, 10 * time.Second}}
	connect := func(now time.Duration) Excess {
		t.Helper()
		src, err := sources.Acquire(k, &nodes, l, now, false)
		if err != nil {
			t.Fatal(err)
		}
		var s State
		s.Bind(src)
		over := s.Admit(l, now, false)
		s.Leave()
		sources.Drop(src, now)
		return over
	}
	connect(0)
	connect(4 * time.Second)
	if over := connect(9 * time.Second); over != (Excess{LimitRate, 2, 2}) {
		t.Errorf("third in ten seconds: %+v", over)
	}
	if over := connect(10 * time.Second); over.Limit != LimitNone {
		t.Errorf("ten seconds after the first: %+v", over)
	}
	if nodes.Len() != 0 || nodes.Known() != 1 || sources.Len() != 1 {
		t.Errorf("%d nodes with states, %d sources", nodes.Len(), sources.Len())
	}
	if over := sources.Excess(k, &nodes, l, 13*time.Second); over.Limit != LimitRate {
		t.Errorf("before its time: %+v", over)
	}
	if over := sources.Excess(k, &nodes, l, 20*time.Second); over.Limit != LimitNone {
		t.Errorf("after its time: %+v", over)
	}
	for part := range Sweeps {
		sources.Sweep(part, 20*time.Second)
	}
	if sources.Len() != 0 {
		t.Errorf("%d sources after the sweep", sources.Len())
	}
}

// What is only remembered makes room for what has states.
func TestRememberedSourceMakesRoom(t *testing.T) {
	var nodes Nodes
	sources := NewSources(1, 1)
	l := &Limits{Track: time.Hour}
	old, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, l, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	sources.Drop(old, 0)
	next := sourceKey("198.51.100.7/24") // of the same shard
	if _, err := sources.Acquire(next, &nodes, l, time.Second, false); err != nil {
		t.Errorf("beside one that is only remembered: %v", err)
	}
}

func TestNodesAreBounded(t *testing.T) {
	var nodes Nodes
	sources := NewSources(10, 1)
	l := &Limits{Nodes: 1}
	first, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, l, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	second := sourceKey("198.51.100.8/32")
	if over := sources.Excess(second, &nodes, l, 0); over != (Excess{LimitNodes, 1, 1}) {
		t.Errorf("a second source: %+v", over)
	}
	if _, err := sources.Acquire(second, &nodes, l, 0, false); !errors.Is(err, ErrNodes) {
		t.Errorf("a second source: %v", err)
	}
	if over := sources.Excess(first.Key, &nodes, l, 0); over.Limit != LimitNone {
		t.Errorf("the first source: %+v", over)
	}
	forced, err := sources.Acquire(second, &nodes, l, 0, true)
	if err != nil || nodes.Len() != 2 {
		t.Errorf("forced: %v, %d nodes", err, nodes.Len())
	}
	sources.Drop(forced, 0)
	sources.Drop(first, 0)
	if _, err := sources.Acquire(second, &nodes, l, 0, false); err != nil {
		t.Errorf("after the first went: %v", err)
	}
}

// Against a list of all times: never more than Count in any window, and never
// refused without need.
func TestRateIsExact(t *testing.T) {
	r := seedtest.Rand(t)
	for range 200 {
		rate := Rate{uint32(1 + r.IntN(20)), time.Duration(1+r.IntN(50)) * time.Millisecond}
		var got recent
		var all []time.Duration
		now := time.Duration(0)
		for range 500 {
			now += time.Duration(r.IntN(10)) * time.Millisecond
			within := 0
			for _, at := range all {
				if at > now-rate.Window {
					within++
				}
			}
			if n := got.within(rate.Window, now); n != within {
				t.Fatalf("%v: %d in the window, want %d", rate, n, within)
			}
			full := got.full(rate, 0, now)
			if full != (within >= int(rate.Count)) {
				t.Fatalf("%v: full %v with %d in the window", rate, full, within)
			}
			if !full {
				got.add(now, int(rate.Count))
				all = append(all, now)
			}
		}
	}
}

// Two clocks read one after the other may come in the other order.
func TestRateOfOlderTimes(t *testing.T) {
	var r recent
	r.add(100*time.Millisecond, 2)
	r.add(90*time.Millisecond, 2)
	rate := Rate{2, 50 * time.Millisecond}
	if !r.full(rate, 0, 149*time.Millisecond) || r.full(rate, 0, 150*time.Millisecond) {
		t.Error("an older time did not count as the newest")
	}
}

// Of a source that was taken over from another set is remembered what there was, for as
// long as there: until its states have come, whatever its time, and then no longer.
func TestRestoredSourceGoes(t *testing.T) {
	const track = 10 * time.Second
	var nodes, nodesThere Nodes
	sources, there := NewSources(10, 1), NewSources(10, 2)
	src, err := sources.Acquire(sourceKey("198.51.100.7/32"), &nodes, &Limits{Track: track}, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	sources.Drop(src, time.Second)
	sources.Save(2*time.Second, func(saved SavedSource) { there.Restore(&saved, &nodesThere) })
	sweep := func(now time.Duration) int {
		for i := range Sweeps {
			there.Sweep(i, now)
		}
		return there.Len()
	}
	if n := sweep(time.Minute); n != 1 {
		t.Errorf("%d sources before the states have come, want 1", n)
	}
	there.Restored()
	if n := sweep(time.Second + track - 1); n != 1 {
		t.Errorf("%d sources before its time, want 1", n)
	}
	if n := sweep(time.Second + track); n != 0 || nodesThere.Known() != 0 {
		t.Errorf("%d sources when its time is over, %d known, want none", n, nodesThere.Known())
	}
}

// What is reserved nobody else gets, and no more is than half of what is left.
func TestReserve(t *testing.T) {
	sources := NewSources(10, 1)
	nodes := &Nodes{}
	for name, l := range map[string]Limits{
		"connections": {Conns: 10}, "states": {States: 10}, "rate": {Rate: Rate{10, time.Hour}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := sources.Acquire(SourceKey{Prefix: netip.MustParsePrefix("192.0.2.1/32")}, nodes, &l, time.Second, false)
			if err != nil {
				t.Fatal(err)
			}
			defer sources.Drop(s, 3*time.Hour)
			if n := s.Reserve(&l, time.Second, 100); n == 0 || n > 5 || s.Reserved() != n {
				t.Fatalf("%d reserved of 10, it says %d", n, s.Reserved())
			}
			reserved, others := s.Reserved(), 0
			for state := new(State); ; state = new(State) {
				state.Bind(s)
				if state.Admit(&l, time.Second, false).Limit != LimitNone {
					break
				}
				others++
			}
			if others != 10-reserved || s.Excess(&l, time.Second).Limit != LimitNone || s.Reserve(&l, time.Second, 1) != 0 {
				t.Errorf("%d others, with %d reserved; excess %+v", others, reserved, s.Excess(&l, time.Second))
			}
			for range reserved {
				state := new(State)
				state.Bind(s)
				state.AdmitReserved(&l, time.Second)
			}
			if s.Reserved() != 0 || s.Excess(&l, time.Second).Limit == LimitNone {
				t.Errorf("%d are reserved, excess %+v", s.Reserved(), s.Excess(&l, time.Second))
			}
			s.reset(s.Key, 0)
			s.slots, s.states = 0, 0
		})
	}
}
