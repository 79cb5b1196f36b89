package engine

import "nfqfw/internal/packet"

// Decision is what is to be done about a packet. It is reused from packet to
// packet.
type Decision struct {
	Verdict packet.Verdict
	Mark    packet.Mark   // for a packet that passes
	Reason  packet.Reason // why it was not passed
	Rule    string        // the rule that refused
	Slots   int           // how many slots the source had taken when it was refused
	Limit   uint32        // and how many it may have
	Offload packet.Offload
	Evicted packet.Offload // before that: for a state that made room

	segments [2]packet.Segment // no packet calls for more
	count    int
}

// Segments are to be sent, in this order, after the offload order and before
// the verdict.
func (d *Decision) Segments() []packet.Segment { return d.segments[:d.count] }

func (d *Decision) emit(s packet.Segment) {
	d.segments[d.count] = s
	d.count++
}

func (d *Decision) emitTracked(s packet.Segment) {
	s.Tracked = true
	d.emit(s)
}

func (d *Decision) pass(m packet.Mark) {
	d.Verdict, d.Mark, d.Reason = packet.Pass, m, packet.ReasonMatch
}

func (d *Decision) drop(r packet.Reason) { d.Verdict, d.Mark, d.Reason = packet.Drop, 0, r }
