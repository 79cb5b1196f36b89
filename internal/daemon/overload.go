package daemon

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/rules"
)

// flushKey is a source whose states are to be flushed: those that a rule made, or, if
// it names none, all.
type flushKey struct {
	prefix netip.Prefix
	rule   string
}

// flushSet are the sources of one pass over the table.
type flushSet map[flushKey]struct{}

// holds says whether a state of a rule is to be flushed.
func (f flushSet) holds(s *conntrack.State, rule string) bool {
	client := s.Tuple.Src.Netip()
	for k := range f {
		if k.prefix.Contains(client) && (k.rule == "" || k.rule == rule) {
			return true
		}
	}
	return false
}

// flushes are the sources that wait to be flushed: there is one pass for all that
// came during the one before. It is safe for concurrent use.
type flushes struct {
	mu      sync.Mutex
	pending flushSet
	wake    chan struct{} // has room for one
	flushed atomic.Uint64 // states
}

func newFlushes() *flushes { return &flushes{pending: make(flushSet), wake: make(chan struct{}, 1)} }

func (f *flushes) add(k flushKey) {
	f.mu.Lock()
	f.pending[k] = struct{}{}
	f.mu.Unlock()
	wake(f.wake)
}

func (f *flushes) take() flushSet {
	f.mu.Lock()
	defer f.mu.Unlock()
	taken := f.pending
	f.pending = make(flushSet)
	return taken
}

// flushKeyOf is what an overload has flushed, if anything.
func flushKeyOf(o *engine.Overload) (k flushKey, ok bool) {
	switch o.Flush {
	case rules.FlushRule:
		return flushKey{o.Prefix, o.Rule}, true
	case rules.FlushGlobal:
		return flushKey{o.Prefix, ""}, true
	}
	return k, false
}
