// Package seedtest gives random tests their seeds. A seed is fixed unless a flag asks for
// another: a test run that is red is red again, and a green one says something about the
// code rather than about luck. Campaigns ask for new seeds.
package seedtest

import (
	"flag"
	"hash/fnv"
	"math/rand/v2"
	"testing"
	"time"
)

// fixed is the seed without flags.
const fixed = 1

var (
	first = flag.Uint64("first", fixed, "the seed of random tests, or the first of several; 0: the clock says")
	seed  = flag.Uint64("seed", 0, "run random tests with this seed alone")
)

// First is the seed to run, or the first one of a test that runs several.
func First() uint64 {
	switch {
	case *seed != 0:
		return *seed
	case *first != 0:
		return *first
	}
	return uint64(time.Now().UnixNano())
}

// Alone says whether one seed is to be repeated, even by a test that runs several.
func Alone() bool { return *seed != 0 }

// Fixed says whether the seed is that of every run. Only then may a test hold its random
// numbers to anything, such as to reach enough cases: with a new seed that is luck.
func Fixed() bool { return First() == fixed }

// Rand is a source of random numbers for a test, of which the seed is logged. The name of
// the test goes in as well, so that subtests of one seed differ.
func Rand(t *testing.T) *rand.Rand {
	t.Helper()
	s := First()
	t.Logf("again with: -seed %d", s)
	name := fnv.New64a()
	_, _ = name.Write([]byte(t.Name())) // never fails
	return rand.New(rand.NewPCG(s, name.Sum64()))
}
