// Package refusal remembers the last connections that a rule or a limit refused.
//
// Invariants: the memory is bounded, and taken only when the first one is refused;
// to add one takes one short lock, however many packets are refused at once. Of the
// oldest, which have made room for others, only the number is known.
package refusal

import (
	"slices"
	"sync"
	"time"

	"nfqfw/internal/packet"
)

// Refusal is that a connection was refused, or would have been.
type Refusal struct {
	At       time.Duration // on the caller's clock
	Tuple    packet.Tuple  // from client to server
	Reason   packet.Reason
	Rule     string        // empty: none
	Count    uint64        // how many there were, if a limit refused
	Limit    uint64        // and how many there may be; 0: it was no limit
	Window   time.Duration // in so long a time, if the limit is a rate
	Enforced bool          // else it was counted, and the connection was let go on
}

// Ring holds the last refusals. It is safe for concurrent use.
type Ring struct {
	size int

	mu    sync.Mutex
	list  []Refusal // in the order of time, round and round
	total uint64    // added since the start; the next one's place is total % size
}

// New makes an empty ring of a size, 1 or more.
func New(size int) *Ring { return &Ring{size: size} }

// Add adds a refusal, in place of the oldest if there is no room. Its time is the
// latest.
func (r *Ring) Add(one *Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = make([]Refusal, r.size)
	}
	r.list[r.total%uint64(r.size)] = *one
	r.total++
}

// Since is a copy of the refusals from a time on, oldest first, and how many before
// them are lost that may be from then on as well.
func (r *Ring) Since(at time.Duration) (list []Refusal, lost uint64) {
	list, lost = r.all()
	first := slices.IndexFunc(list, func(one Refusal) bool { return one.At >= at })
	switch first {
	case -1:
		return nil, 0
	case 0:
		return list, lost
	}
	return list[first:], 0
}

func (r *Ring) all() (list []Refusal, lost uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.total <= uint64(r.size) {
		return slices.Clone(r.list[:min(r.total, uint64(len(r.list)))]), 0
	}
	oldest := r.total % uint64(r.size)
	return slices.Concat(r.list[oldest:], r.list[:oldest]), r.total - uint64(r.size)
}
