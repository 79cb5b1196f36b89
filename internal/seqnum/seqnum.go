// Package seqnum is arithmetic on TCP sequence numbers, which wrap at 2^32
// (RFC 9293 section 3.4).
//
// Intervals are half open: [first, last). It compares no two numbers more than
// 2^31 apart in a meaningful way, and neither does TCP.
package seqnum

// Value is a sequence or acknowledgment number.
type Value uint32

// Size is a distance between two sequence numbers, in octets (SYN and FIN count one each).
type Size uint32

// LessThan says whether v comes before w.
func (v Value) LessThan(w Value) bool { return int32(v-w) < 0 }

// Add is the number s octets after v.
func (v Value) Add(s Size) Value { return v + Value(s) }

// Sub is the number s octets before v.
func (v Value) Sub(s Size) Value { return v - Value(s) }

// Size is the distance from v up to w, modulo 2^32.
func (v Value) Size(w Value) Size { return Size(w - v) }
