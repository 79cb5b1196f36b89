package refusal

import (
	"sync"
	"testing"
	"time"
)

// added is a ring that n refusals were added to, at 1, 2, 3 and so on.
func added(size, n int) *Ring {
	r := New(size)
	for i := range n {
		r.Add(&Refusal{At: time.Duration(i + 1), Count: uint64(i + 1)})
	}
	return r
}

func TestSince(t *testing.T) {
	for _, tt := range []struct {
		name        string
		size, added int
		at          time.Duration
		first, n    int
		lost        uint64
	}{
		{"nothing", 3, 0, 0, 0, 0, 0},
		{"room left", 3, 2, 0, 1, 2, 0},
		{"full", 3, 3, 0, 1, 3, 0},
		{"one lost", 3, 4, 0, 2, 3, 1},
		{"round twice", 3, 8, 0, 6, 3, 5},
		{"exactly twice", 3, 6, 0, 4, 3, 3},
		{"since a time", 3, 3, 2, 2, 2, 0},
		{"what was lost is older", 3, 8, 7, 7, 2, 0},
		{"what was lost may be newer", 3, 8, 6, 6, 3, 5},
		{"since what was lost", 3, 8, 2, 6, 3, 5},
		{"since the future", 3, 8, 9, 0, 0, 0},
		{"of one", 1, 5, 0, 5, 1, 4},
	} {
		list, lost := added(tt.size, tt.added).Since(tt.at)
		if len(list) != tt.n || lost != tt.lost {
			t.Errorf("%s: %d, and %d lost; want %d and %d", tt.name, len(list), lost, tt.n, tt.lost)
			continue
		}
		for i, one := range list {
			if int(one.At) != tt.first+i {
				t.Errorf("%s: number %d is %d, want %d", tt.name, i, one.At, tt.first+i)
			}
		}
	}
}

// What is handed out does not change.
func TestSinceCopies(t *testing.T) {
	for _, n := range []int{2, 3, 5} {
		r := added(3, n)
		list, _ := r.Since(0)
		first := list[0]
		for range 3 {
			r.Add(&Refusal{At: 100})
		}
		if list[0] != first {
			t.Errorf("of %d: the copy changed", n)
		}
	}
}

func TestConcurrent(t *testing.T) {
	const each, goroutines = 1000, 4
	r := New(100)
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range each {
				r.Add(&Refusal{At: 1})
				r.Since(0)
			}
		})
	}
	all.Wait()
	if list, lost := r.Since(0); len(list) != 100 || lost != each*goroutines-100 {
		t.Errorf("%d, and %d lost", len(list), lost)
	}
}

// A flood of refusals makes no garbage.
func TestAddDoesNotAllocate(t *testing.T) {
	r := added(100, 1)
	one := Refusal{Rule: "web"}
	if n := testing.AllocsPerRun(1000, func() { r.Add(&one) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	r := added(10_000, 1)
	b.RunParallel(func(pb *testing.PB) {
		one := Refusal{Rule: "web"}
		for pb.Next() {
			r.Add(&one)
		}
	})
}
