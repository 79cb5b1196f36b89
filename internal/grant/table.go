package grant

import "nfqfw/internal/packet"

// Table is all grants. Nobody but the kernel may read or write beside its caller.
type Table struct {
	slots []Slot
	seed  uint64
}

// New makes a table of memory for Slots slots.
func New(slots []Slot, seed uint64) *Table { return &Table{slots: slots[:Slots:Slots], seed: seed} }

// Memory is room for a table that no kernel reads.
func Memory() []Slot { return make([]Slot, Slots) }

// Index is the slot for the client of a connection, from the side of its client.
func (t *Table) Index(of *packet.Tuple) int {
	return t.index(&of.Src, &of.Dst, packet.WirePortOf(of.DstPort))
}

// Has says whether the slot's grant is for this client, server and interfaces.
func (t *Table) Has(i int, of *packet.Tuple, inDev, replyDev uint32) bool {
	s := &t.slots[i]
	return s.fits(&of.Src, &of.Dst, packet.WirePortOf(of.DstPort)) && s.InDev == inDev && s.ReplyDev == replyDev
}

// fits says whether the grant is for this client and server.
func (s *Slot) fits(client, server *packet.Addr, port packet.WirePort) bool {
	return s.Port == port && s.Client == *client && s.Server == *server
}

// Put makes the slot, of which everything was taken back, one for this client, server and
// interfaces.
func (t *Table) Put(i int, of *packet.Tuple, inDev, replyDev uint32) {
	s := &t.slots[i]
	s.Client, s.Server = of.Src, of.Dst
	s.InDev, s.ReplyDev = inDev, replyDev
	s.Port = packet.WirePortOf(of.DstPort)
}

// SetSYNs grants up to n SYNs from now on.
func (t *Table) SetSYNs(i int, n int32) {
	if s := &t.slots[i]; s.SYNs.Load() != n {
		s.SYNs.Store(n)
	}
}

// Left is how many admissions are left.
func (t *Table) Left(i int) int { return int(uint32(t.slots[i].Admissions.Load())) }

// Admit grants n admissions more.
func (t *Table) Admit(i, n int) { t.slots[i].Admissions.Add(uint64(n)) }

// Name is the name of the slot's grant.
func (t *Table) Name(i int) packet.Grant {
	return packet.Grant{Slot: uint32(i), Generation: uint32(t.slots[i].Admissions.Load() >> 32)}
}

// Take takes all back, and says how many admissions were left.
func (t *Table) Take(i int) (left int) {
	s := &t.slots[i]
	s.SYNs.Store(0)
	s.Port = packet.WirePort{}
	for {
		was := s.Admissions.Load()
		if s.Admissions.CompareAndSwap(was, (was>>32+1)<<32) {
			return int(uint32(was))
		}
	}
}

// Passes does in Go what the kernel's program does with a SYN or SYN+ACK: it says whether
// the packet is granted, and uses up the grant. The two are held together by a test; the
// simulation has this one for its kernel.
func (t *Table) Passes(p *packet.Packet) bool {
	switch {
	case p.OpensFast():
		return false
	case p.IsSYNACK():
		s := &t.slots[t.index(&p.Dst, &p.Src, packet.WirePortOf(p.SrcPort))]
		return s.fits(&p.Dst, &p.Src, packet.WirePortOf(p.SrcPort)) && s.ReplyDev == p.InDev
	case !p.IsSYN():
		return false
	}
	s := &t.slots[t.Index(&p.Tuple)]
	return s.fits(&p.Src, &p.Dst, packet.WirePortOf(p.DstPort)) && s.InDev == p.InDev && s.SYNs.Load() > 0 && s.SYNs.Add(-1) >= 0
}

// Admits does so with an ACK that completes a handshake. It names the grant.
func (t *Table) Admits(p *packet.Packet) (by packet.Grant, ok bool) {
	i := t.Index(&p.Tuple)
	s := &t.slots[i]
	was := s.Admissions.Load()
	if uint32(was) == 0 || !s.fits(&p.Src, &p.Dst, packet.WirePortOf(p.DstPort)) || s.InDev != p.InDev {
		return by, false
	}
	return t.Name(i), s.Admissions.CompareAndSwap(was, was-1)
}

func (t *Table) index(client, server *packet.Addr, port packet.WirePort) int {
	c0, c1 := client.Words()
	s0, s1 := server.Words()
	return int(packet.Mix(t.seed, c0, c1, s0, s1, port.Word()) & (Slots - 1))
}
