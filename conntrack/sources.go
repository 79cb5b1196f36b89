package conntrack

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
)

// ErrSources says that no more sources can be tracked (limits.src_nodes).
var ErrSources = errors.New("source limit reached")

// ErrNodes says that no more sources may be counted together (max_src_nodes).
var ErrNodes = errors.New("source limit of the rule reached")

const sourceShards = 32

// Nodes counts the sources with states that are bounded together: those of a rule,
// or those of all rules that track globally.
type Nodes struct{ count, known atomic.Int64 }

// Len is how many there are.
func (n *Nodes) Len() int { return int(n.count.Load()) }

// Known is how many there are with those that are only remembered.
func (n *Nodes) Known() int { return int(n.known.Load()) }

// Full says whether there are as many as may be; 0 is no limit.
func (n *Nodes) Full(limit uint32) bool { return limit > 0 && n.count.Load() >= int64(limit) }

// enter makes one more, unless there are as many as may be.
func (n *Nodes) enter(limit uint32) bool {
	if n.count.Add(1) > int64(limit) && limit > 0 {
		n.leave()
		return false
	}
	return true
}

func (n *Nodes) leave() { n.count.Add(-1) }

// Sources are the sources that have states, or are remembered for a while after
// their last. It is safe for concurrent use; its locks are taken before a table
// shard's or without one, and never waited for under one.
type Sources struct {
	limit  atomic.Int64
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
	t := &Sources{hash: newHasher(seed)}
	t.SetLimit(limit)
	for i := range t.shards {
		t.shards[i].sources = make(map[SourceKey]*Source)
	}
	return t
}

// SetLimit changes how many sources may be tracked. Those that are stay.
func (t *Sources) SetLimit(limit int) { t.limit.Store(int64(limit)) }

// Limit is how many sources may be tracked.
func (t *Sources) Limit() int { return int(t.limit.Load()) }

// Len is the number of sources.
func (t *Sources) Len() int { return int(t.count.Load()) }

func (t *Sources) shard(k SourceKey) *sourceShard {
	a := packet.AddrFrom(k.Prefix.Addr())
	return &t.shards[t.hash.addr(&a)%sourceShards]
}

// Acquire finds or makes a source, one of nodes, and holds it; Drop lets it go.
// The number of nodes is bounded by the limits unless it is forced, that of all
// sources always.
func (t *Sources) Acquire(k SourceKey, nodes *Nodes, l *Limits, now time.Duration, force bool) (*Source, error) {
	sh := t.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return t.acquire(sh, k, nodes, l, now, force)
}

// TryAcquire does so, within the limits, unless it would have to wait: who has locked a
// shard of the table must not. It returns nil if the source is not held.
func (t *Sources) TryAcquire(k SourceKey, nodes *Nodes, l *Limits, now time.Duration) *Source {
	sh := t.shard(k)
	if !sh.mu.TryLock() {
		return nil
	}
	defer sh.mu.Unlock()
	s, _ := t.acquire(sh, k, nodes, l, now, false)
	return s
}

func (t *Sources) acquire(sh *sourceShard, k SourceKey, nodes *Nodes, l *Limits, now time.Duration, force bool) (*Source, error) {
	s := sh.find(k, now)
	if s == nil || s.refs == 0 {
		limit := l.Nodes
		if force {
			limit = 0
		}
		if !nodes.enter(limit) {
			return nil, ErrNodes
		}
		if s == nil {
			s = t.add(sh, k, nodes, now)
		}
		if s == nil {
			nodes.leave()
			return nil, ErrSources
		}
	}
	s.refs++
	s.track = max(s.track, l.Track, l.Rate.Window)
	return s, nil
}

// add makes a source, or returns nil if there are as many as may be.
func (t *Sources) add(sh *sourceShard, k SourceKey, nodes *Nodes, now time.Duration) *Source {
	if !t.makeRoom(sh) {
		return nil
	}
	s := sh.take()
	s.reset(k, now)
	s.nodes = nodes
	nodes.known.Add(1)
	sh.sources[k] = s
	return s
}

// find looks a source up. One whose time is over begins anew.
func (sh *sourceShard) find(k SourceKey, now time.Duration) *Source {
	s := sh.sources[k]
	if s != nil && s.forgotten(now) {
		s.reset(k, now)
	}
	return s
}

// forgotten says whether the source has no states, waits for none, and had none for long
// enough.
func (s *Source) forgotten(now time.Duration) bool {
	return s.refs == 0 && !s.waits && now >= s.idle+s.track
}

// maxRemembered bounds how many sources makeRoom looks at.
const maxRemembered = 64

// makeRoom counts one source more. If there are as many as may be, one without
// states goes that was only remembered, if a look at a few finds one.
func (t *Sources) makeRoom(sh *sourceShard) bool {
	if t.count.Add(1) <= t.limit.Load() {
		return true
	}
	looked := 0
	for _, s := range sh.sources {
		if s.refs == 0 {
			t.remove(sh, s)
			return true
		}
		if looked++; looked == maxRemembered {
			break
		}
	}
	t.count.Add(-1)
	return false
}

func (t *Sources) remove(sh *sourceShard, s *Source) {
	delete(sh.sources, s.Key)
	s.nodes.known.Add(-1)
	s.admitted = recent{}
	sh.free = append(sh.free, s)
	t.count.Add(-1)
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

// Drop lets a source go that Acquire returned. The last one out removes it, or
// leaves it to be remembered.
func (t *Sources) Drop(s *Source, now time.Duration) {
	sh := t.shard(s.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.refs--
	if s.refs > 0 {
		return
	}
	s.nodes.leave()
	s.idle = now
	if s.forgotten(now) {
		t.remove(sh, s)
	}
}

// Excess says whether a connection more of a source would pass a limit, to tell
// before there is a reason to hold the source.
func (t *Sources) Excess(k SourceKey, nodes *Nodes, l *Limits, now time.Duration) Excess {
	sh := t.shard(k)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.find(k, now)
	if (s == nil || s.refs == 0) && nodes.Full(l.Nodes) {
		return Excess{LimitNodes, uint32(nodes.Len()), l.Nodes}
	}
	if s != nil {
		return s.Excess(l, now)
	}
	return Excess{}
}

// Sweeps is how many calls of Sweep see all sources.
const Sweeps = sourceShards

// Sweep forgets the sources of one part, from 0 to Sweeps-1, whose time is over.
func (t *Sources) Sweep(part int, now time.Duration) {
	sh := &t.shards[part]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, s := range sh.sources {
		if s.forgotten(now) {
			t.remove(sh, s)
		}
	}
}

// SavedSource is what another set of sources has to know of one. Its connections come
// with their states.
type SavedSource struct {
	Key      SourceKey
	Created  time.Duration
	Idle     time.Duration // when it was left by its last state, if it has none
	Track    time.Duration
	Admitted []time.Duration // when its last connections were admitted, the oldest first
}

// Save calls f for every source.
func (t *Sources) Save(now time.Duration, f func(SavedSource)) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, s := range sh.sources {
			if !s.forgotten(now) {
				f(s.saved(now))
			}
		}
		sh.mu.Unlock()
	}
}

func (s *Source) saved(now time.Duration) SavedSource {
	saved := SavedSource{Key: s.Key, Created: s.created, Idle: s.idle, Track: s.track}
	if s.refs > 0 {
		saved.Idle = now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := s.admitted.count; n > 0; n-- {
		saved.Admitted = append(saved.Admitted, s.admitted.last(n))
	}
	return saved
}

// Restore remembers a source that was in another set, as one of nodes, at least until
// Restored.
func (t *Sources) Restore(saved *SavedSource, nodes *Nodes) {
	sh := t.shard(saved.Key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.sources[saved.Key] != nil {
		return
	}
	s := t.add(sh, saved.Key, nodes, saved.Created)
	if s == nil {
		return
	}
	s.idle, s.track, s.waits = saved.Idle, saved.Track, true
	for _, at := range saved.Admitted {
		s.admitted.add(at, len(saved.Admitted))
	}
}

// Restored says that the states of all sources that were restored have come.
func (t *Sources) Restored() {
	for i := range t.shards {
		t.shards[i].restored()
	}
}

func (sh *sourceShard) restored() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, s := range sh.sources {
		s.waits = false
	}
}

// SourceView is a source as a listing shows it: a copy, taken at one moment.
type SourceView struct {
	Key           SourceKey
	Conns, States int
	Recent        int           // admitted in the window
	Created       time.Duration // when it was first held
	Expires       time.Duration // when it is forgotten; without states only
}

// Each calls f for every source, with no lock held. window tells for how long a time
// recent ones are counted.
func (t *Sources) Each(now time.Duration, window func(SourceKey) time.Duration, f func(*SourceView) error) error {
	var batch []SourceView
	for i := range t.shards {
		batch = t.shards[i].view(now, window, batch[:0])
		for j := range batch {
			if err := f(&batch[j]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (sh *sourceShard) view(now time.Duration, window func(SourceKey) time.Duration, into []SourceView) []SourceView {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for k, s := range sh.sources {
		if s.forgotten(now) {
			continue
		}
		v := SourceView{Key: k, Created: s.created}
		s.mu.Lock()
		v.Conns, v.States, v.Recent = s.slots, s.states, s.admitted.within(window(k), now)
		s.mu.Unlock()
		if s.refs == 0 {
			v.Expires = s.idle + s.track
		}
		into = append(into, v)
	}
	return into
}
