package table

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// deadline says when to look whether an entry has run out. It is the entry's that
// has the same ticket; of others the entries are gone.
type deadline struct {
	at     time.Duration
	ticket uint64
	table  *Table
	prefix netip.Prefix
}

// deadlines is a heap, the next one first.
type deadlines []deadline

// Len is part of heap.Interface.
func (d deadlines) Len() int { return len(d) }

// Less is part of heap.Interface.
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }

// Swap is part of heap.Interface.
func (d deadlines) Swap(i, j int) { d[i], d[j] = d[j], d[i] }

// Push is part of heap.Interface.
func (d *deadlines) Push(x any) { *d = append(*d, x.(deadline)) }

// Pop is part of heap.Interface.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	return x
}

const (
	// sweepMost is how many deadlines a Sweep looks at, so that nobody waits long
	// for the lock.
	sweepMost = 1000
	// staleMost is how many deadlines may be kept beyond two for each entry.
	staleMost = 20_000
)

// Sweep removes entries that have run out. What it leaves for the next time is
// only memory: no look-up finds it.
func (s *Set) Sweep(now time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; n < sweepMost && s.sweepOne(now); n++ {
	}
}

// sweepOne looks at the next deadline, and says whether it was due.
func (s *Set) sweepOne(now time.Duration) bool {
	if len(s.deadlines) == 0 || s.deadlines[0].at > now {
		return false
	}
	d := heap.Pop(&s.deadlines).(deadline)
	switch v, own := s.owner(d); {
	case !own:
	case v.expired(now):
		s.remove(d.table, d.prefix)
	default: // it was refreshed
		s.insert(d.table, d.prefix, v)
	}
	return true
}

// owner is the entry whose deadline it is.
func (s *Set) owner(d deadline) (value, bool) {
	if s.tables[d.table.name] != d.table {
		return value{}, false
	}
	v, ok := d.table.trie.Load().Get(d.prefix)
	return v, ok && v.ticket == d.ticket
}

// await keeps a deadline and gives its ticket. When most are of entries that are gone,
// they go too.
func (s *Set) await(d deadline) uint64 {
	if len(s.deadlines) > 2*s.entries+staleMost {
		s.deadlines = slices.DeleteFunc(s.deadlines, func(d deadline) bool {
			_, own := s.owner(d)
			return !own
		})
		heap.Init(&s.deadlines)
	}
	s.tickets++
	d.ticket = s.tickets
	heap.Push(&s.deadlines, d)
	return d.ticket
}
