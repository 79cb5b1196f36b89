package rules

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"

	"nfqfw/internal/packet"
)

// point is a place in an ordered world: an address among those of its family, as a
// number of 128 bits, or a port.
type point struct{ hi, lo uint64 }

func addressPoint(a packet.Addr) point {
	return point{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

func portPoint(port uint16) point { return point{0, uint64(port)} }

func (p point) compare(q point) int {
	if p.hi != q.hi {
		return cmp.Compare(p.hi, q.hi)
	}
	return cmp.Compare(p.lo, q.lo)
}

// next is the point after this one; after the last there is none.
func (p point) next() (_ point, ok bool) {
	if p.lo < math.MaxUint64 {
		return point{p.hi, p.lo + 1}, true
	}
	return point{p.hi + 1, 0}, p.hi < math.MaxUint64
}

// family is IPv4 or IPv6: worlds of their own, for no prefix of one holds an address
// of the other.
type family int

const (
	inet family = iota
	inet6
	families
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return inet
	}
	return inet6
}

// toggles are points in order, at each of which something begins to hold or ceases
// to, in turn. One that is there twice changes nothing.
type toggles []point

func (t toggles) holds(p point) bool {
	after, _ := slices.BinarySearchFunc(t, p, func(q, p point) int {
		if q.compare(p) <= 0 {
			return -1
		}
		return 1
	})
	return after%2 == 1
}

// portToggles are where a list of ports begins and ends; an empty one is all ports.
func portToggles(ranges []PortRange) toggles {
	if len(ranges) == 0 {
		return toggles{portPoint(0)}
	}
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var t toggles
	end := -1 // of the ranges so far
	for _, r := range sorted {
		if r.First > r.Last || int(r.Last) <= end {
			continue
		}
		if end < int(r.First) {
			t = append(t, portPoint(r.First))
		} else {
			t = t[:len(t)-1] // the one before goes on
		}
		end = int(r.Last)
		t = append(t, point{0, uint64(end) + 1})
	}
	return t
}

// toggles are where the list begins to hold addresses of a family and ceases to.
// Those that no prefix is about are in if others says so.
func (l Prefixes) toggles(f family, others bool) toggles {
	w := sweep{others: others}
	w.set(point{}, others)
	for _, s := range l.spans(f) {
		w.leave(func(o span) bool { return o.last.compare(s.first) < 0 })
		w.open = append(w.open, s)
		w.set(s.first, s.in)
	}
	w.leave(func(span) bool { return true })
	return w.toggles
}

// sweep goes over prefixes in the order of their first addresses. Prefixes are nested
// or apart: open are those around the place reached, the widest first, and the last
// of them decides.
type sweep struct {
	toggles
	open   []span
	others bool
	in     bool // what holds at the place reached
}

func (w *sweep) set(p point, in bool) {
	if in != w.in {
		w.toggles, w.in = append(w.toggles, p), in
	}
}

// leave closes the innermost prefixes as long as they are over.
func (w *sweep) leave(over func(span) bool) {
	for n := len(w.open); n > 0 && over(w.open[n-1]); n-- {
		after, ok := w.open[n-1].last.next()
		w.open = w.open[:n-1]
		if ok {
			w.set(after, w.decided())
		}
	}
}

func (w *sweep) decided() bool {
	if n := len(w.open); n > 0 {
		return w.open[n-1].in
	}
	return w.others
}

// span is a prefix as an interval, both ends included.
type span struct {
	first, last point
	bits        int
	in          bool
}

// spans are the prefixes of a family by where they begin, the wider first.
func (l Prefixes) spans(f family) []span {
	var list []span
	for _, p := range l {
		if p.IsValid() && familyOf(p.Addr()) == f {
			list = append(list, spanOf(p))
		}
	}
	slices.SortStableFunc(list, func(a, b span) int {
		return cmp.Or(a.first.compare(b.first), cmp.Compare(a.bits, b.bits))
	})
	return list
}

func spanOf(p Prefix) span {
	first := addressPoint(packet.AddrFrom(p.Masked().Addr()))
	bits := p.Bits() + 128 - p.Addr().BitLen() // IPv4 is mapped into IPv6
	last := point{first.hi, first.lo | math.MaxUint64>>max(bits-64, 0)}
	if bits < 64 {
		last.hi |= math.MaxUint64 >> bits
	}
	return span{first, last, p.Bits(), !p.Negated}
}
