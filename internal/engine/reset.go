package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/synproxy"
)

// A client that has reset a connection its server still holds could hold more
// connections than it may. Nobody between the two can tell whether the server
// has obeyed: a RST may get lost, on purpose even (a small TTL), or have a
// number that only nearly fits, and conntrack takes many of those for exact. So
// the server is asked, again and again, and the connection counts until it
// denies it.

// A server is asked after 1, 2, 4 s and so on, and at last every 64 s. If it has
// said nothing at all by then the connection is ended: it is forgotten after
// tcp.closed, as the server may not send RST, and honest clients would be locked
// out.
const maxQuestions = 6

// askServer sends the server the client's RST, in a copy that arrives, and asks it
// whether it has obeyed. If it has not, its answer goes on to the client, as
// does its word on the RST; a client that means it resets again, and then with
// the right number.
//
// The kernel may have believed the RST. Its entry begins anew, for the server's
// connection may live on.
func (v *visit) askServer() {
	v.d.drop(packet.ReasonDuplicate)
	v.askHeld(v.shard, v.state, v.p.Seq, v.now, v.d)
}

// askHeld sends the server a RST with the number seq, and the first question.
func (e *Engine) askHeld(sh *conntrack.Shard, s *conntrack.State, seq seqnum.Value, now time.Duration, d *Decision) {
	e.question(sh, s, seq, now)
	d.Offload = e.create(s)
	d.emit(synproxy.Reset(s.Tuple, seq))
	d.emit(probe(s))
}

// question has the server asked until it says something. Whoever calls it sends the
// first question.
func (e *Engine) question(sh *conntrack.Shard, s *conntrack.State, seq seqnum.Value, now time.Duration) {
	h := &s.Handshake
	if h.Probe == 0 {
		h.Probe = e.probeNumber(s, seq)
	}
	if s.Adopted {
		h.Client = seq.Sub(oldest) // whatever the client began with
	}
	h.Tries = 0
	if due := now + askInterval(0); !h.Asking || due < h.Due {
		h.Asking, h.Due = true, due
		sh.Wait(s)
	}
}

// oldest is how far back a number is that is out of any window.
const oldest = 1 << 30

// probeNumber is one that the client cannot know: cookies of this direction are never
// sent.
func (e *Engine) probeNumber(s *conntrack.State, seq seqnum.Value) seqnum.Value {
	return e.jar.Bake(s.Tuple.Reverse(), seq, packet.Options{}) | 1
}

// end resets a connection whose time is over and whose server may still hold
// it. The numbers are stale: what either side says from now on gives the right
// ones, and the server is made to say something.
func (e *Engine) end(sh *conntrack.Shard, s *conntrack.State, now time.Duration, d *Decision) {
	e.setEnding(s, now)
	e.askHeld(sh, s, s.Src.SeqLo, now, d)
}

// setEnding gives a connection that is to end its last lifetime.
func (e *Engine) setEnding(s *conntrack.State, now time.Duration) {
	s.Handshake.Ending = true
	e.countLeaving(s, 1)
	s.Timeout, s.Refreshed = conntrack.TCPClosed, now
}

// ends takes the numbers of a packet of a connection that is being ended: the
// server hears a RST that it will obey, and is asked again. The client is told
// when the slot is free.
func (v *visit) ends() {
	v.d.drop(packet.ReasonStateMismatch)
	s, p := v.state, v.p
	if p.Flags&(packet.ACK|packet.SYN|packet.RST) != packet.ACK {
		return
	}
	expected := p.End() // by the server
	if v.dir == conntrack.Reply {
		expected = p.Ack
		s.Dst.SeqLo = p.End()
	} else {
		s.Dst.SeqLo = p.Ack.Sub(s.SeqDiff)
	}
	v.d.emit(synproxy.Reset(s.Tuple, expected))
	v.d.emit(probe(s))
}

func probe(s *conntrack.State) packet.Segment {
	return synproxy.Probe(s.Tuple, s.Handshake.Client, s.Handshake.Probe)
}

// askInterval is the time between two questions.
func askInterval(tries uint8) time.Duration {
	return time.Second << min(tries, maxQuestions)
}

// askAgain asks the server again if it is time, and says whether to go on.
func (e *Engine) askAgain(s *conntrack.State, now time.Duration) bool {
	h := &s.Handshake
	if s.Dst.State != conntrack.Established {
		h.Asking = false // it has closed
		return false
	}
	if h.Tries == maxQuestions && !h.Ending {
		e.setEnding(s, now)
	}
	h.Tries = min(h.Tries+1, maxQuestions)
	h.Due = now + askInterval(h.Tries)
	e.decide().emit(probe(s))
	return true
}

// doubtServer is for a RST of a server's that was asked and has not denied. The
// kernel's entry has begun anew since and would take any number; the RST may
// answer something else. The client gets it, and the server is asked again.
func (v *visit) doubtServer() {
	v.d.pass(packet.MarkTrack)
	v.d.emit(probe(v.state))
}

// serverDenies says whether the server answers our question: it does not hold
// the connection.
func (v *visit) serverDenies() bool {
	h := &v.state.Handshake
	return v.dir == conntrack.Reply && v.p.Flags.Has(packet.RST) && h.Probe != 0 && v.p.Seq == h.Probe
}

// obeyed ends a connection that the client has reset and the server holds no
// more. The RST is for us only.
func (v *visit) obeyed() {
	s := v.state
	v.advance()
	v.d.drop(packet.ReasonDuplicate)
	v.d.Offload = deleteEntry(s.Tuple)
	s.Offloaded = false
	if s.Handshake.Ending {
		v.d.emit(farewell(s)) // it is not the client that has ended it
		v.dying(s)
	}
}

// dying has a connection whose time is over listed no more, now that its server has let
// go. The state stays for a while, to take what its client says yet.
func (v *visit) dying(s *conntrack.State) {
	v.leave(s)
	v.dropLater(s.Unbind())
	s.Killed = true
	v.killed.Add(1)
	h := &s.Handshake
	h.Asking, h.Tries, h.Due = false, uint8(len(killRetries)), v.now+killRetries[1]
	v.shard.Wait(s)
}

// farewell resets the client. If the number is stale, the client's challenge
// shows the right one.
func farewell(s *conntrack.State) packet.Segment {
	return synproxy.Reset(s.Tuple.Reverse(), s.Dst.SeqLo.Add(s.SeqDiff))
}
