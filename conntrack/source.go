package conntrack

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"nfqfw/internal/packet"
)

// SourceKey names a source: a group of client addresses, under one rule or,
// with rule 0, under all that track globally.
type SourceKey struct {
	Rule   uint32
	Prefix netip.Prefix
}

// Source counts the connections of one source. A slot is held from the moment
// a connection is admitted until it ends or fails, so that handshakes under way
// cannot together pass the limit.
type Source struct {
	Key   SourceKey
	slots atomic.Int32 // connections that count, those under way included
	refs  int32        // states that point here; guarded by the shard's lock
}

// Slots is the number of connections that count now.
func (s *Source) Slots() int { return int(s.slots.Load()) }

// reserve takes a slot unless limit are taken.
func (s *Source) reserve(limit uint32) bool {
	for {
		n := s.slots.Load()
		if int64(n) >= int64(limit) {
			return false
		}
		if s.slots.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// ErrSources says that no more sources can be tracked (limits.src_nodes).
var ErrSources = errors.New("source limit reached")

const sourceShards = 32

// Sources are the sources that have states. It is safe for concurrent use; its
// locks are taken before a table shard's or without one, never under one.
type Sources struct {
	limit  int
	count  atomic.Int64
	hash   hasher
	shards [sourceShards]sourceShard
}

type sourceShard struct {
	mu      sync.Mutex
	sources map[SourceKey]*Source
	free    []*Source // of sources that went, for those to come
}

// NewSources makes an empty set that tracks at most limit sources. The seed is
// random, and is to be kept from clients.
func NewSources(limit int, seed uint64) *Sources {
	t := &Sources{limit: limit, hash: newHasher(seed)}
	for i := range t.shards {
		t.shards[i].sources = make(map[SourceKey]*Source)
	}
	return t
}

// Len is the number of sources.
func (t *Sources) Len() int { return int(t.count.Load()) }

func (t *Sources) shard(k SourceKey) *sourceShard {
	a := packet.AddrFrom(k.Prefix.Addr())
	return &t.shards[t.hash.addr(&a)%sourceShards]
}

// Acquire finds or makes a source and holds it; Drop lets it go.
func (t *Sources) Acquire(k SourceKey) (*Source, error) {
	sh := t.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.sources[k]
	if s == nil {
		if t.count.Add(1) > int64(t.limit) {
			t.count.Add(-1)
			return nil, ErrSources
		}
		s = sh.take()
		s.Key = k
		sh.sources[k] = s
	}
	s.refs++
	return s, nil
}

func (sh *sourceShard) take() *Source {
	n := len(sh.free)
	if n == 0 {
		return &Source{}
	}
	s := sh.free[n-1]
	sh.free = sh.free[:n-1]
	return s
}

// Drop lets a source go that Acquire returned; the last one out removes it.
func (t *Sources) Drop(s *Source) {
	sh := t.shard(s.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.refs--
	if s.refs == 0 {
		delete(sh.sources, s.Key)
		sh.free = append(sh.free, s)
		t.count.Add(-1)
	}
}

// Slots is how many connections of a source count now.
func (t *Sources) Slots(k SourceKey) int {
	sh := t.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s := sh.sources[k]; s != nil {
		return s.Slots()
	}
	return 0
}

// Each calls f for every source, holding one shard's lock at a time.
func (t *Sources) Each(f func(k SourceKey, slots int)) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for k, s := range sh.sources {
			f(k, s.Slots())
		}
		sh.mu.Unlock()
	}
}

// Bind makes the connection one of a source's. The state holds the source from
// now on, in place of the caller of Acquire.
func (s *State) Bind(src *Source) { s.source = src }

// Bound says whether the connection has a source.
func (s *State) Bound() bool { return s.source != nil }

// Reserve takes a slot of the connection's source, at most limit in all, and
// says whether there was one. Without a source there always is; a connection
// that has a slot keeps it.
func (s *State) Reserve(limit uint32) bool {
	if s.source == nil || s.slot {
		return true
	}
	s.slot = s.source.reserve(limit)
	return s.slot
}

// Release gives the connection's slot back, if it has one.
func (s *State) Release() {
	if s.slot {
		s.slot = false
		s.source.slots.Add(-1)
	}
}

// Counts says whether the connection holds a slot.
func (s *State) Counts() bool { return s.slot }

// Slots is how many slots of the connection's source are taken.
func (s *State) Slots() int {
	if s.source == nil {
		return 0
	}
	return s.source.Slots()
}
