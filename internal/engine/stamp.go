package engine

import (
	"nfqfw/conntrack"
	"nfqfw/internal/packet"
)

// Doubt is for when somebody has taken out what translates timestamps: while the kernel
// went on to track connections, those of the SYN proxy have heard their server's own
// clock. A client that has accepted one such timestamp drops what is translated as old
// (RFC 7323 section 5.3), or would not have accepted it: its next packet echoes what it
// has heard last, and has to be queued for that. If ok, the kernel's entry needs the mark.
func (e *Engine) Doubt(t packet.Tuple) (m packet.Mark, ok bool) {
	sh := e.table.Lock(t)
	defer sh.Unlock()
	s, _ := sh.Find(t)
	if s == nil || s.TSDiff == 0 || !s.Offloaded || s.Closed() {
		return 0, false
	}
	s.Doubted = true
	return steer(s), true
}

// hearsServer says whether a packet is a client's that has heard its server's own clock,
// while there is doubt about it, and ends the doubt.
func (v *visit) hearsServer() bool {
	o := &v.p.Options
	if !v.state.Doubted || v.dir != conntrack.Original || !o.HasTimestamp {
		return false
	}
	v.state.Doubted = false
	return isOwn(v.state, o.TSEcr)
}

// shiftBits is how far a stamp may be from what was told, of a connection that was adopted:
// its client's window shift is not known.
const shiftBits = 0xf

// isOwn says whether what a client echoes is of its server's own clock, and not of the
// translated one: that of which less time has passed since the handshake. Where this is
// wrong the two are so close that the client takes either after the other.
func isOwn(s *conntrack.State, echo uint32) bool {
	sinceTold := echo - stamp(s) + shiftBits
	return sinceTold+s.TSDiff < sinceTold
}

// translateNoMore lets the server's own timestamps through from now on, for a client that
// knows no others.
func (v *visit) translateNoMore() {
	v.state.TSDiff = 0
	v.putBack()
}
