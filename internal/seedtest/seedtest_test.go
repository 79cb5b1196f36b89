package seedtest

import (
	"slices"
	"testing"
)

// A test has the same numbers each time, and subtests have other ones.
func TestRandIsFixed(t *testing.T) {
	if !Fixed() || Alone() {
		t.Skip("a campaign")
	}
	some := func(t *testing.T) []int { return Rand(t).Perm(100) }
	again := some(t)
	if !slices.Equal(some(t), again) {
		t.Error("a test with two sources has other numbers of each")
	}
	t.Run("sub", func(t *testing.T) {
		if slices.Equal(some(t), again) {
			t.Error("a subtest has the numbers of its parent")
		}
	})
}

// Flags choose the seed, and the clock does if the first one is to be zero.
func TestFirst(t *testing.T) {
	defer func(f, s uint64) { *first, *seed = f, s }(*first, *seed)
	*first, *seed = 5, 0
	if First() != 5 || Alone() || Fixed() {
		t.Errorf("-first 5: seed %d, alone %v, fixed %v", First(), Alone(), Fixed())
	}
	*seed = 7
	if First() != 7 || !Alone() || Fixed() {
		t.Errorf("-seed 7: seed %d, alone %v, fixed %v", First(), Alone(), Fixed())
	}
	*first, *seed = 0, 0
	if First() < 1<<32 || Fixed() {
		t.Errorf("-first 0: seed %d, fixed %v", First(), Fixed())
	}
}
