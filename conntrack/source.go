package conntrack

import (
	"math"
	"net/netip"
	"sync"
	"time"
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
	Key SourceKey

	mu       sync.Mutex // may be taken under any other lock; none is taken under it
	slots    int        // connections that count, those under way included
	states   int        // connections that were admitted and are in the table
	reserved int        // places of connections that may be admitted without being asked about
	admitted recent     // when they were, as far as a rate needs it

	// Guarded by the lock of the source's shard.
	created time.Duration
	refs    int // states that point here, and those who hold it
	track   time.Duration
	idle    time.Duration // when the last of refs went; means nothing while there are some
	waits   bool          // for the states that it had in another set
	nodes   *Nodes        // that it is one of
}

// Slots is the number of connections that count now.
func (s *Source) Slots() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots
}

// Excess says whether a connection more would pass a limit, whatever is reserved.
func (s *Source) Excess(l *Limits, now time.Duration) Excess {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.excess(s, 0, now)
}

// Room is how many connections more the source may have, at least.
func (s *Source) Room(l *Limits, now time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room(l, now)
}

func (s *Source) room(l *Limits, now time.Duration) int {
	room := math.MaxInt
	if l.Conns > 0 {
		room = int(l.Conns) - s.slots
	}
	if l.States > 0 {
		room = min(room, int(l.States)-s.states)
	}
	if l.Rate.Count > 0 {
		room = min(room, s.admitted.room(l.Rate, now))
	}
	return max(room-s.reserved, 0)
}

// Reserve keeps places for up to n connections more, and says for how many: at most half
// of those that no limit would refuse.
func (s *Source) Reserve(l *Limits, now time.Duration, n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.room(l, now)/2)
	s.reserved += n
	return n
}

// Unreserve gives n of the places back.
func (s *Source) Unreserve(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= n
}

// Reserved is how many places are kept.
func (s *Source) Reserved() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reserved
}

// admit takes a slot, unless a limit keeps it from that and it is not forced.
func (s *Source) admit(l *Limits, now time.Duration, force bool) Excess {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := l.excess(s, s.reserved, now)
	if over.Limit != LimitNone && !force {
		return over
	}
	s.enter(l, now)
	return over
}

// admitReserved takes a slot by a place that was reserved.
func (s *Source) admitReserved(l *Limits, now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
	s.enter(l, now)
}

// enter counts a connection more.
func (s *Source) enter(l *Limits, now time.Duration) {
	s.slots++
	s.states++
	if keep := max(l.Rate.Count, l.Keep); keep > 0 {
		s.admitted.add(now, int(keep))
	}
}

func (s *Source) releaseSlot() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots--
}

func (s *Source) releaseState() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states--
}

// reset makes a source that is not held one that nothing is remembered of.
func (s *Source) reset(k SourceKey, now time.Duration) {
	s.Key, s.created, s.track, s.waits, s.reserved = k, now, 0, false, 0
	s.admitted = recent{}
}

// Bind makes the connection one of a source's. The state holds the source from
// now on, in place of the caller of Acquire.
func (s *State) Bind(src *Source) { s.source = src }

// Unbind makes the connection none of its source's. The source, if it had one, is held
// for the caller now.
func (s *State) Unbind() *Source {
	src := s.source
	s.source = nil
	return src
}

// Bound says whether the connection has a source.
func (s *State) Bound() bool { return s.source != nil }

// Source is the connection's, or nil.
func (s *State) Source() *Source { return s.source }

// Admit takes a slot of the connection's source, if it has one, unless a limit
// keeps it from that and it is not forced. A connection that was admitted stays so.
func (s *State) Admit(l *Limits, now time.Duration, force bool) Excess {
	if s.admitted {
		return Excess{}
	}
	var over Excess
	if s.source != nil {
		over = s.source.admit(l, now, force)
		if over.Limit != LimitNone && !force {
			return over
		}
		s.slot = true
	}
	s.admitted = true
	return over
}

// AdmitReserved takes a slot of the connection's source by a place that was reserved there.
func (s *State) AdmitReserved(l *Limits, now time.Duration) {
	s.source.admitReserved(l, now)
	s.slot, s.admitted = true, true
}

// Resume gives a connection that was restored the place in the counts of its source
// that it had. No limit is asked, and no rate takes it in.
func (s *State) Resume(counts, admitted bool) {
	s.slot, s.admitted = counts && s.source != nil, admitted
	if s.source == nil {
		return
	}
	s.source.mu.Lock()
	defer s.source.mu.Unlock()
	if s.slot {
		s.source.slots++
	}
	if admitted {
		s.source.states++
	}
}

// Admitted says whether Admit has admitted the connection. That it counts no more
// does not change it.
func (s *State) Admitted() bool { return s.admitted }

// Release gives the connection's slot back, if it has one.
func (s *State) Release() {
	if s.slot {
		s.slot = false
		s.source.releaseSlot()
	}
}

// Leave takes the connection out of all counts, as if it had been removed.
func (s *State) Leave() {
	s.Release()
	if s.admitted && s.source != nil {
		s.source.releaseState()
	}
	s.admitted = false
}

// Counts says whether the connection holds a slot.
func (s *State) Counts() bool { return s.slot }
