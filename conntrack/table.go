package conntrack

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
)

// ErrFull says that the table holds as many states as it may (limits.states).
var ErrFull = errors.New("state limit reached")

// tableShards is a power of two, so many that a few packet loops seldom meet.
const tableShards = 64

// Table holds the states. Each shard has its own lock; both directions of a
// connection are in one shard. The hash is seeded: clients choose their tuples.
//
// A look-up reads two lines of memory, however many states there are. To make room for
// more no state is moved, but for the first of a shard, so that no packet waits long.
type Table struct {
	limit   atomic.Int64
	count   atomic.Int64
	lastID  atomic.Uint64
	hash    hasher
	sources *Sources
	shards  [tableShards]Shard
}

// Shard is a part of the table. Its methods need its lock. A *State is valid
// until the shard is unlocked or a state is inserted.
type Shard struct {
	mu      sync.Mutex
	table   *Table
	index   index
	chunks  [][]State // the places of states; a zero ID marks a free one
	free    []uint32  // places
	waiting []waiting // states with a Handshake.Due
	look    uint32    // where Expendable goes on
	_       [64]byte  // no two shards' locks in one cache line
}

// chunkSize is how many places are made at a time, but for the first ones: a small table
// is to stay small. So many states fill pages, and none shares a cache line with others.
const chunkSize = 256

// waiting names a state, and the time of its Handshake.Due. A place alone would
// also name those that came after it.
type waiting struct {
	due   time.Duration
	id    uint64
	place uint32
}

// NewTable makes an empty table for at most limit states, whose sources are
// let go when the last state of theirs is removed. The seed is random, and is
// to be kept from clients.
func NewTable(limit int, sources *Sources, seed uint64) *Table {
	t := &Table{hash: newHasher(seed), sources: sources}
	t.SetLimit(limit)
	for i := range t.shards {
		t.shards[i].table = t
		t.shards[i].index = newIndex()
	}
	return t
}

// SetLimit changes how many states there may be. Those that are stay.
func (t *Table) SetLimit(limit int) { t.limit.Store(int64(limit)) }

// Limit is how many states there may be.
func (t *Table) Limit() int { return int(t.limit.Load()) }

// Len is the number of states.
func (t *Table) Len() int { return int(t.count.Load()) }

// Lock locks the shard of a connection, which a tuple of either direction names.
func (t *Table) Lock(tuple packet.Tuple) *Shard {
	sh := &t.shards[t.hash.tuple(&tuple)%tableShards]
	sh.mu.Lock()
	return sh
}

// Unlock unlocks the shard.
func (sh *Shard) Unlock() { sh.mu.Unlock() }

// Find looks a packet's connection up, expired or not, and the packet's
// direction in it.
func (sh *Shard) Find(t packet.Tuple) (*State, Dir) {
	x := &sh.index
	tag := sh.tag(&t)
	for i := tag & x.mask(); x.slots[i].place != 0; i = (i + 1) & x.mask() {
		if x.slots[i].tag != tag {
			continue
		}
		s := sh.at(x.slots[i].place - 1)
		switch {
		case s.Tuple == t:
			return s, Original
		case s.Tuple.Answers(&t):
			return s, Reply
		}
	}
	return nil, Original
}

func (sh *Shard) tag(t *packet.Tuple) uint32 { return tagOf(sh.table.hash.tuple(t)) }

// at is a place.
func (sh *Shard) at(place uint32) *State { return &sh.chunks[place/chunkSize][place%chunkSize] }

// places is how many there are.
func (sh *Shard) places() int {
	last := len(sh.chunks) - 1
	if last < 0 {
		return 0
	}
	return last*chunkSize + len(sh.chunks[last])
}

// Insert adds a copy of a state that is not in the table yet, and gives it an ID.
func (sh *Shard) Insert(s *State) (*State, error) {
	if sh.table.count.Add(1) > sh.table.limit.Load() {
		sh.table.count.Add(-1)
		return nil, ErrFull
	}
	s.ID = sh.table.lastID.Add(1)
	return sh.place(s), nil
}

// Restore adds a copy of a state that was in another table, with its ID.
func (sh *Shard) Restore(s *State) (*State, error) {
	if sh.table.count.Add(1) > sh.table.limit.Load() {
		sh.table.count.Add(-1)
		return nil, ErrFull
	}
	for last := sh.table.lastID.Load(); last < s.ID && !sh.table.lastID.CompareAndSwap(last, s.ID); {
		last = sh.table.lastID.Load()
	}
	return sh.place(s), nil
}

// place gives a state a place in the shard.
func (sh *Shard) place(s *State) *State {
	s.place = sh.freePlace()
	sh.index.add(sh.tag(&s.Tuple), s.place)
	to := sh.at(s.place)
	*to = *s
	return to
}

// freePlace takes a place that is free, or makes one.
func (sh *Shard) freePlace() uint32 {
	if n := len(sh.free); n > 0 {
		place := sh.free[n-1]
		sh.free = sh.free[:n-1]
		return place
	}
	place := sh.places()
	if place%chunkSize == 0 {
		var chunk []State
		if place > 0 {
			chunk = make([]State, 0, chunkSize)
		}
		sh.chunks = append(sh.chunks, chunk)
	}
	last := &sh.chunks[len(sh.chunks)-1]
	*last = append(*last, State{})
	return uint32(place)
}

// maxLook bounds how many places Expendable looks at.
const maxLook = 64

// Expendable is a state that may make room for another: one that is closed or, if
// there is none in the next places of the shard, the oldest of those half-open. It
// is nil if there is neither: established connections never go, nor does one whose
// server is about to answer a question, or has not heard yet that it was killed.
func (sh *Shard) Expendable() *State {
	var oldest *State
	places := sh.places()
	for range min(maxLook, places) {
		sh.look = (sh.look + 1) % uint32(places)
		s := sh.at(sh.look)
		switch {
		case s.ID == 0, s.Killed && s.Handshake.Asking:
		case s.Closed():
			return s
		case s.HalfOpen() && !s.Handshake.Held && (oldest == nil || s.Created < oldest.Created):
			oldest = s
		}
	}
	return oldest
}

// Remove takes a state out of the table and of all counts, and returns the
// source it held, which the caller lets go (Table.Drop) once the shard is
// unlocked.
func (sh *Shard) Remove(s *State) *Source {
	s.Leave()
	src, place := s.source, s.place
	sh.index.remove(sh.tag(&s.Tuple), place)
	*s = State{}
	sh.free = append(sh.free, place)
	sh.table.count.Add(-1)
	return src
}

// Drop lets the source of a removed state go; nil is none. It takes a lock of
// the sources', so no shard may be locked.
func (t *Table) Drop(src *Source, now time.Duration) {
	if src != nil {
		t.sources.Drop(src, now)
	}
}

// Wait asks that Waiting names this state at its Handshake.Due. Whoever sets
// another Due asks again.
func (sh *Shard) Wait(s *State) {
	sh.waiting = append(sh.waiting, waiting{s.Handshake.Due, s.ID, s.place})
}

// Waiting calls due for every state whose Handshake.Due has come. The states for
// which it says true wait on, for the Due that it has set. due may remove the
// state.
func (sh *Shard) Waiting(now time.Duration, due func(*State) bool) {
	kept := sh.waiting[:0]
	for _, w := range sh.waiting {
		if now < w.due {
			kept = append(kept, w)
			continue
		}
		s := sh.at(w.place)
		if s.ID != w.id || s.Handshake.Due != w.due {
			continue
		}
		if due(s) {
			w.due = s.Handshake.Due
			kept = append(kept, w)
		}
	}
	sh.waiting = kept
}

// TryLockShard locks shard i, or is nil if that is locked: who has locked another must not
// wait.
func (t *Table) TryLockShard(i int) *Shard {
	if !t.shards[i].mu.TryLock() {
		return nil
	}
	return &t.shards[i]
}

// Shards is the number of shards, for LockShard.
func (t *Table) Shards() int { return tableShards }

// LockShard locks shard number i.
func (t *Table) LockShard(i int) *Shard {
	t.shards[i].mu.Lock()
	return &t.shards[i]
}

// Part calls f for every state in n places of the shard, from a place on that
// is 0 or what Part returned last, and returns the place to go on from, or 0
// when that was the end. A state keeps its place for life.
func (sh *Shard) Part(place, n int, f func(*State)) (next int) {
	places := sh.places()
	end := min(place+n, places)
	for i := place; i < end; i++ {
		if s := sh.at(uint32(i)); s.ID != 0 {
			f(s)
		}
	}
	if end == places {
		return 0
	}
	return end
}

// Each calls f for every state of the shard. f may remove the state it is
// called with.
func (sh *Shard) Each(f func(*State)) { sh.Part(0, sh.places(), f) }
