package grant

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
)

// Table is all grants. It is safe for concurrent use.
type Table struct {
	mu    sync.Mutex // guards the slots against other writers
	slots []Slot
	until []time.Duration // before that nothing is given in a slot
	live  atomic.Bool     // some were given since they were last withdrawn
	since atomic.Int64    // when that was: a time.Duration
}

// New makes a table of memory for Slots slots whose first has the seed.
func New(slots []Slot) *Table {
	t := &Table{slots: slots[:Slots:Slots], until: make([]time.Duration, Slots)}
	t.live.Store(true) // the memory may have grants from before
	return t
}

// Memory is room for a table that no kernel reads. The seed is random, and is to be kept
// from clients.
func Memory(seed uint64) []Slot {
	slots := make([]Slot, Slots)
	slots[0].Seed = seed
	return slots
}

// Give grants the client of a connection, from the side of its client, up to n SYNs from
// now on, or none. Where another writer is at work it does nothing, and nobody waits.
func (t *Table) Give(now time.Duration, of *packet.Tuple, inDev, replyDev uint32, n int32) {
	if !t.mu.TryLock() {
		return
	}
	defer t.mu.Unlock()
	port := wire(of.DstPort)
	i := t.index(&of.Src, &of.Dst, port)
	s := &t.slots[i]
	if now < t.until[i] {
		return
	}
	same := s.fits(&of.Src, &of.Dst, port) && s.InDev == inDev && s.ReplyDev == replyDev
	if !same && n > 0 {
		s.Left.Store(0) // while the rest is of two grants
		s.Client, s.Server, s.Port = of.Src, of.Dst, port
		s.InDev, s.ReplyDev = inDev, replyDev
	}
	if (same || n > 0) && s.Left.Load() != n {
		s.Left.Store(n)
	}
	if n > 0 && !t.live.Load() {
		t.live.Store(true)
	}
}

// Deny grants the client of a connection nothing until then.
func (t *Table) Deny(of *packet.Tuple, until time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.index(&of.Src, &of.Dst, wire(of.DstPort))
	t.until[i] = max(t.until[i], until)
	t.slots[i].take()
}

// take takes back what was granted.
func (s *Slot) take() {
	s.Left.Store(0)
	s.Port = [2]byte{} // that of no server: no SYN+ACK fits either
}

// Withdraw takes all grants back. Connections that began before are no reason to give one
// again: see Since.
func (t *Table) Withdraw(now time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since.Store(int64(now))
	if !t.live.Swap(false) {
		return
	}
	for i := range t.slots {
		t.slots[i].take()
	}
}

// Since is when all grants were last withdrawn.
func (t *Table) Since() time.Duration { return time.Duration(t.since.Load()) }

// Live says whether there may be a grant.
func (t *Table) Live() bool { return t.live.Load() }

// Passes does in Go what the kernel's program does with a SYN or SYN+ACK: it says whether
// the packet is granted, and uses up the grant. The two are held together by a test; the
// simulation has this one for its kernel.
func (t *Table) Passes(p *packet.Packet) bool {
	client, server, port := &p.Src, &p.Dst, p.DstPort
	switch {
	case p.OpensFast():
		return false
	case p.IsSYNACK():
		client, server, port = server, client, p.SrcPort
	case !p.IsSYN():
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	raw := wire(port)
	s := &t.slots[t.index(client, server, raw)]
	if !s.fits(client, server, raw) {
		return false
	}
	if p.IsSYNACK() {
		return s.ReplyDev == p.InDev
	}
	return s.InDev == p.InDev && s.Left.Load() > 0 && s.Left.Add(-1) >= 0
}

// wire is a port as a header has it.
func wire(port uint16) (b [2]byte) {
	binary.BigEndian.PutUint16(b[:], port)
	return b
}

// Mix is the odd number that the hash multiplies by: the fraction of the golden ratio.
const Mix = 0x9e3779b97f4a7c15

// index is where the grant is, if there is one.
func (t *Table) index(client, server *packet.Addr, port [2]byte) uint64 {
	h := t.slots[0].Seed
	for _, word := range [...]uint64{
		binary.LittleEndian.Uint64(client[:8]), binary.LittleEndian.Uint64(client[8:]),
		binary.LittleEndian.Uint64(server[:8]), binary.LittleEndian.Uint64(server[8:]),
		uint64(binary.LittleEndian.Uint16(port[:])),
	} {
		h = (h ^ word) * Mix
		h ^= h >> 32
	}
	return h & (Slots - 1)
}
