package engine

import (
	"net/netip"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/rules"
)

// Decision is what is to be done about a packet. It is reused from packet to
// packet.
type Decision struct {
	Verdict packet.Verdict
	Mark    packet.Mark   // for a packet that passes
	Reason  packet.Reason // why it was not passed
	Offload packet.Offload
	Evicted packet.Offload // before that: for a state that made room

	// Again is that somebody would be refused for what may be over, or may be of the same
	// connection: take note of all that has passed, put that into p.Noted, and call again.
	// Nothing has happened yet.
	Again bool

	Refusal  Refusal  // what is to be reported; its Reason is ReasonMatch if nothing is
	Overload Overload // what is to be done; its Table is empty if nothing is

	segments [2]packet.Segment // no packet calls for more
	count    int
}

// Refusal is that a rule or a limit refuses a connection, or would.
type Refusal struct {
	Reason   packet.Reason
	Rule     string
	Count    uint64        // how many there are, if a limit refuses
	Limit    uint64        // and how many there may be
	Window   time.Duration // in so long a time, if the limit is a rate
	Enforced bool          // else the rule is one that only counts (enforce = false)
}

// Overload is that a source has passed a limit of a rule that puts it into a table.
type Overload struct {
	Table  string
	Prefix netip.Prefix
	Flush  rules.Flush
	Rule   string // the rule, for FlushRule
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
