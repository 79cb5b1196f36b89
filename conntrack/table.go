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
	index   map[packet.Key]uint32 // into states
	states  []State               // a zero ID marks a free place
	free    []uint32
	waiting []waiting // states with a Handshake.Due
	look    uint32    // where Expendable goes on
	_       [64]byte  // no two shards' locks in one cache line
}

// waiting names a state, and the time of its Handshake.Due. A key alone would
// also name those that came after it.
type waiting struct {
	due time.Duration
	id  uint64
	key packet.Key
}

// NewTable makes an empty table for at most limit states, whose sources are
// let go when the last state of theirs is removed. The seed is random, and is
// to be kept from clients.
func NewTable(limit int, sources *Sources, seed uint64) *Table {
	t := &Table{hash: newHasher(seed), sources: sources}
	t.SetLimit(limit)
	for i := range t.shards {
		t.shards[i].table = t
		t.shards[i].index = make(map[packet.Key]uint32)
	}
	return t
}

// SetLimit changes how many states there may be. Those that are stay.
func (t *Table) SetLimit(limit int) { t.limit.Store(int64(limit)) }

// Limit is how many states there may be.
func (t *Table) Limit() int { return int(t.limit.Load()) }

// Len is the number of states.
func (t *Table) Len() int { return int(t.count.Load()) }

// Lock locks the shard of a connection.
func (t *Table) Lock(k packet.Key) *Shard {
	sh := &t.shards[t.hash.key(&k)%tableShards]
	sh.mu.Lock()
	return sh
}

// Unlock unlocks the shard.
func (sh *Shard) Unlock() { sh.mu.Unlock() }

// Find looks a packet's connection up, expired or not, and the packet's
// direction in it.
func (sh *Shard) Find(t packet.Tuple) (*State, Dir) {
	i, ok := sh.index[t.Key()]
	if !ok {
		return nil, Original
	}
	s := &sh.states[i]
	if s.Tuple == t {
		return s, Original
	}
	return s, Reply
}

// Insert adds a state that is not in the table yet, and gives it an ID.
func (sh *Shard) Insert(s State) (*State, error) {
	if sh.table.count.Add(1) > sh.table.limit.Load() {
		sh.table.count.Add(-1)
		return nil, ErrFull
	}
	s.ID = sh.table.lastID.Add(1)
	return sh.place(s), nil
}

// Restore adds a state that was in another table, with its ID.
func (sh *Shard) Restore(s State) (*State, error) {
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
func (sh *Shard) place(s State) *State {
	var i uint32
	if n := len(sh.free); n > 0 {
		i, sh.free = sh.free[n-1], sh.free[:n-1]
		sh.states[i] = s
	} else {
		i = uint32(len(sh.states))
		sh.states = append(sh.states, s)
	}
	sh.index[s.Tuple.Key()] = i
	return &sh.states[i]
}

// maxLook bounds how many places Expendable looks at.
const maxLook = 64

// Expendable is a state that may make room for another: one that is closed or, if
// there is none in the next places of the shard, the oldest of those half-open. It
// is nil if there is neither: established connections never go, nor does one whose
// server is about to answer a question, or has not heard yet that it was killed.
func (sh *Shard) Expendable() *State {
	var oldest *State
	for range min(maxLook, len(sh.states)) {
		sh.look = (sh.look + 1) % uint32(len(sh.states))
		s := &sh.states[sh.look]
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
	src, key := s.source, s.Tuple.Key()
	i := sh.index[key]
	delete(sh.index, key)
	sh.states[i] = State{}
	sh.free = append(sh.free, i)
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
	sh.waiting = append(sh.waiting, waiting{s.Handshake.Due, s.ID, s.Tuple.Key()})
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
		i, ok := sh.index[w.key]
		if !ok || sh.states[i].ID != w.id || sh.states[i].Handshake.Due != w.due {
			continue
		}
		if due(&sh.states[i]) {
			w.due = sh.states[i].Handshake.Due
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
	end := min(place+n, len(sh.states))
	for i := place; i < end; i++ {
		if sh.states[i].ID != 0 {
			f(&sh.states[i])
		}
	}
	if end == len(sh.states) {
		return 0
	}
	return end
}

// Each calls f for every state of the shard. f may remove the state it is
// called with.
func (sh *Shard) Each(f func(*State)) {
	for i := range sh.states {
		if sh.states[i].ID != 0 {
			f(&sh.states[i])
		}
	}
}
