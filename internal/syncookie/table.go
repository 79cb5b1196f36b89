package syncookie

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/synproxy/cookie"
)

// Table is the engine's view of the memory. Nobody but the kernel may use a service beside
// its caller; CountTuple, CountSource and SetKeys are safe for concurrent use.
type Table struct {
	Memory
	bits int // of a cell's number
	seed uint64
}

// New makes a table of memory in which there is no service.
func New(m Memory, seed uint64) *Table {
	return &Table{Memory: m, bits: bits.Len(uint(len(m.Cells) - 1)), seed: seed}
}

// SetSole tells of the only interface by which anything can leave this machine, by its index;
// 0: there is none, or more than one.
func (t *Table) SetSole(ifindex uint32) { t.Sole.Store(ifindex) }

// Jar makes the cookies that the kernel makes.
func (t *Table) Jar() *cookie.Jar {
	var keys [2]cookie.Key
	for i := range keys {
		for j := range keys[i] {
			keys[i][j] = t.Keys[i][j].Load()
		}
	}
	return cookie.RestoreJar(keys, uint8(t.Newer.Load()))
}

// SetKeys tells which key new cookies are made with, and which were.
func (t *Table) SetKeys(keys [2]cookie.Key, newer uint8) {
	for i := range keys {
		for j := range keys[i] {
			t.Keys[i][j].Store(keys[i][j])
		}
	}
	t.Newer.Store(uint32(newer))
}

// Index is the place of a service, which nothing else has that is answered for: a server's
// port, the destination of the tuple, by one interface.
func (t *Table) Index(to *packet.Tuple, inDev uint32) int {
	first, second := to.Dst.Words()
	return int(packet.Mix(t.seed, first, second, uint64(inDev), packet.WirePortOf(to.DstPort).Word()) & uint64(len(t.Services)-1))
}

// Put makes a place that of a service: not before Rest has passed since it was answered for
// by another. Server are the options that clients are told, as far as they have them too, and
// room is the largest MSS that the interface has room for; 0: that is not known. Who has more
// than a few states that limits are about is not answered.
func (t *Table) Put(i int, to *packet.Tuple, inDev uint32, server *packet.Options, room uint16, few uint32) {
	s := &t.Services[i]
	s.Server, s.Port, s.InDev = to.Dst, packet.WirePortOf(to.DstPort), inDev
	s.MSS, s.WScale, s.Has, s.Few = server.MSS, server.WScale, 0, few
	if s.Room = room; room == 0 {
		s.Room = math.MaxUint16
	}
	for _, option := range []struct {
		has bool
		bit Has
	}{{server.SACKPermitted, HasSACK}, {server.HasWScale, HasWScale}, {server.HasTimestamp, HasTimestamp}} {
		if option.has {
			s.Has |= option.bit
		}
	}
}

// Until has the kernel answer for a service before a time of CLOCK_MONOTONIC; 0: no more.
func (t *Table) Until(i int, at time.Duration) { t.Services[i].Until.Store(uint64(at)) }

// Answered is how many SYNs of the place were answered so far.
func (t *Table) Answered(i int) uint64 { return t.Services[i].Answered.Load() }

// Demand has ACKs without a state that repeat no cookie dropped, of services that are answered
// for, or lets them be judged.
func (t *Table) Demand(on bool) {
	demands := uint32(0)
	if on {
		demands = 1
	}
	t.Demands.Store(demands)
}

// Dropped is how many ACKs of the place were dropped so far because they proved nothing.
func (t *Table) Dropped(i int) uint64 { return t.Services[i].Unproven.Load() }

// CountTuple says that a tuple has n states more, from the side of its client.
func (t *Table) CountTuple(of *packet.Tuple, n int) { t.tuple(of).Add(uint32(int32(n))) }

// CountSource says that a source has n states more that limits are about.
func (t *Table) CountSource(source *packet.Addr, n int) { t.source(source).Add(uint32(int32(n))) }

// Counts are the sums of these.
func (t *Table) Counts() (tuples, sources int) {
	for i := range t.Cells {
		tuples += int(t.Cells[i].Tuple.Load())
		sources += int(t.Cells[i].Source.Load())
	}
	return tuples, sources
}

// Answer does in Go what the kernel's program does with the SYN of a client that no rule
// and no table names: it says whether it is answered, and what the client is told. The two
// are held together by a test; the simulation has this one for its kernel.
func (t *Table) Answer(now time.Duration, p *packet.Packet) (told packet.Options, ok bool) {
	s, ok := t.serviceOf(now, p)
	if !ok || p.OpensFast() || p.Flags&^(packet.ECE|packet.CWR) != packet.SYN || t.tuple(&p.Tuple).Load() != 0 || t.source(&p.Src).Load() > s.Few {
		return told, false
	}
	s.Answered.Add(1)
	client := &p.Options
	told = packet.Options{
		MSS: s.MSS, SACKPermitted: client.SACKPermitted && s.Has&HasSACK != 0,
		HasWScale:    client.HasWScale && s.Has&HasWScale != 0,
		HasTimestamp: client.HasTimestamp && s.Has&HasTimestamp != 0, TSEcr: client.TSVal,
	}
	if told.HasWScale {
		told.WScale = s.WScale
	}
	return told, true
}

// Unproven does in Go what the kernel does with an ACK of no connection that conntrack knows:
// it says whether it is dropped, for it should repeat a cookie, and does not.
func (t *Table) Unproven(now time.Duration, p *packet.Packet) bool {
	s, ok := t.serviceOf(now, p)
	const control = packet.FIN | packet.SYN | packet.RST | packet.ACK
	if !ok || p.Flags&control != packet.ACK || t.Demands.Load() == 0 || t.tuple(&p.Tuple).Load() != 0 {
		return false
	}
	if _, _, proves := Proof(t.Jar(), p); proves {
		return false
	}
	s.Unproven.Add(1)
	return true
}

// serviceOf is the service that a packet is for, if it is answered for.
func (t *Table) serviceOf(now time.Duration, p *packet.Packet) (*Service, bool) {
	s := &t.Services[t.Index(&p.Tuple, p.InDev)]
	same := s.Server == p.Dst && s.Port == packet.WirePortOf(p.DstPort) && s.InDev == p.InDev
	return s, same && uint64(now) < s.Until.Load()
}

// source is the count of a source: an IPv4 address, or the first half of one of IPv6, as
// sources are told apart by default.
func (t *Table) source(source *packet.Addr) *atomic.Uint32 {
	word, second := source.Words()
	if word == 0 {
		word = second
	}
	return &t.Cells[(word^t.seed)*packet.MixFactor>>(64-t.bits)].Source
}

// tuple is the count of a tuple.
func (t *Table) tuple(of *packet.Tuple) *atomic.Uint32 {
	s0, s1 := of.Src.Words()
	d0, d1 := of.Dst.Words()
	ports := packet.WirePortOf(of.SrcPort).Word() | packet.WirePortOf(of.DstPort).Word()<<16
	return &t.Cells[packet.Mix(t.seed, s0, s1, d0, d1, ports)&uint64(len(t.Cells)-1)].Tuple
}
