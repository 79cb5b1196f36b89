package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/synproxy"
)

// A connection that is killed counts no more at once, and is not listed. Payload
// passes in the kernel, so that nobody here knows the numbers at which its two sides
// would obey a RST (RFC 5961 section 3.2). Both are asked: each says in its answer
// what it expects, and what the other does. Until then, and for a while if nothing is
// heard, the state stays to take the answers. A SYN does not replace it before the
// server has said that it does not hold the connection: who is killed could else keep it
// from hearing of that.

// killRetries are the times after the first question at which a side is asked again;
// with the last the state goes.
var killRetries = [...]time.Duration{time.Second, 3 * time.Second, 7 * time.Second}

// Kill ends the connections for which match, told the state and the name of its rule,
// says true, and says how many. Both sides are reset, unless it is to be silent: then
// the states are forgotten, and the kernel's entries with them, as pfctl -k does. It
// calls do for each decision, with no lock held.
func (e *Engine) Kill(now time.Duration, match func(s *conntrack.State, rule string) bool, silent bool, do func(*Decision)) int {
	e.Withdraw(now) // until a server has denied its connection, a SYN is to be dropped
	killed := 0
	for i := range e.table.Shards() {
		k := e.killIn(i, now, match, silent)
		for j := range k.due {
			do(&k.due[j])
		}
		for _, s := range k.released {
			e.table.Drop(s, now)
		}
		killed += len(k.due)
	}
	return killed
}

// killing is what follows from killing the states of a shard.
type killing struct {
	due      []Decision // one for each
	released []*conntrack.Source
}

func (e *Engine) killIn(i int, now time.Duration, match func(*conntrack.State, string) bool, silent bool) (k killing) {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Each(func(s *conntrack.State) {
		if s.Killed || !match(s, e.ruleOf(s).Name) {
			return
		}
		k.due = append(k.due, Decision{})
		d := &k.due[len(k.due)-1]
		if !silent && !s.Opening() && !s.Closed() {
			k.released = append(k.released, e.kill(sh, s, now, d))
			return
		}
		if s.Offloaded || !s.Proxied {
			d.Offload = deleteEntry(s.Tuple)
		}
		if !silent {
			resetOpening(s, d)
		}
		k.released = append(k.released, e.forget(sh, s))
	})
	return k
}

// resetOpening resets the sides of a handshake under way, whose numbers are known.
func resetOpening(s *conntrack.State, d *Decision) {
	switch {
	case s.Closed():
	case s.ShakingHands() && s.Handshake.Held:
		d.emit(refuseHeld(s))
		if askedFirst(s) {
			d.emit(resetServer(s))
		}
	case s.ShakingHands():
		d.emit(resetClient(s))
		if s.Src.State == conntrack.ProxyDst {
			d.emit(resetServer(s))
		}
	default:
		d.emit(synproxy.Reset(s.Tuple, s.Src.SeqLo))
		if s.Dst.Seen {
			d.emit(synproxy.Reset(s.Tuple.Reverse(), s.Dst.SeqLo))
		} else {
			d.emit(refuseHeld(s))
		}
	}
}

// kill takes an established connection out of all counts, and asks its two sides. It
// returns the source that the state held.
func (e *Engine) kill(sh *conntrack.Shard, s *conntrack.State, now time.Duration, d *Decision) *conntrack.Source {
	e.leave(s)
	if !s.Leaving() {
		s.Killed = true
		e.countLeaving(s, 1)
	}
	s.Killed, s.Offloaded, s.Made = true, false, false
	e.killed.Add(1)
	s.Src.State, s.Dst.State = conntrack.TimeWait, conntrack.TimeWait
	s.Refresh(now)
	h := &s.Handshake
	h.Asking, h.Ending = true, false
	if h.Probe == 0 {
		h.Probe = e.probeNumber(s, s.Src.SeqLo)
	}
	if s.Adopted {
		h.Client = s.Src.SeqLo.Sub(oldest)
	}
	h.Tries, h.Due = 1, now+killRetries[0]
	sh.Wait(s)
	// The entry goes when the server has let go: if this engine ends before, the next one
	// knows by it of a connection that the server holds.
	d.Offload = packet.Offload{Op: packet.OffloadMark, Tuple: s.Tuple, Mark: packet.MarkTrack}
	askBoth(s, d)
	return s.Unbind()
}

// askBoth has both sides of a killed connection say their numbers.
func askBoth(s *conntrack.State, d *Decision) {
	d.emit(probe(s))
	serverISN := s.Dst.SeqLo.Add(s.SeqDiff) - 1 // or something later, which is as old
	d.emit(synproxy.Probe(s.Tuple.Reverse(), serverISN, s.Handshake.Probe))
}

// killAgain asks both sides again, and says whether to wait on. With the last time the
// state goes.
func (e *Engine) killAgain(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	if !postpone(&s.Handshake, killRetries[:], now) {
		e.decide().Offload = deleteEntry(s.Tuple)
		e.released = append(e.released, e.forget(sh, s))
		return false
	}
	askBoth(s, e.decide())
	return true
}

// dies takes the numbers of a packet of a killed connection: both sides are reset.
func (v *visit) dies() {
	s, p := v.state, v.p
	v.d.drop(packet.ReasonStateMismatch)
	if v.serverDenies() {
		s.Handshake.Asking = false
		v.d.Offload = deleteEntry(s.Tuple)
	}
	if !p.Flags.Has(packet.ACK) || p.Flags.Has(packet.RST) {
		return
	}
	v.d.emit(synproxy.Refusal(p))
	if p.Flags.Has(packet.SYN) {
		return // a server that has not heard the last ACK of the handshake
	}
	var diff seqnum.Size
	if v.dir == conntrack.Reply {
		diff = s.SeqDiff
	}
	v.d.emit(synproxy.Reset(p.Tuple, p.Seq.Add(diff)))
}
