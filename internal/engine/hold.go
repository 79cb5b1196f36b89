package engine

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// holdTime is how long a client waits for an answer while its server is asked what
// it can do: until a SYN+ACK that was lost has come again, which most send after a
// second (RFC 6298 section 2). It would meet the client's own handshake else, and cost
// that one its connection. holdInterval is how often it is looked whether another has
// asked.
const (
	holdTime     = 1500 * time.Millisecond
	holdInterval = 100 * time.Millisecond
)

// hold begins a state whose client has to wait: its SYN, or that of another client,
// goes to the server first, with all options on offer, and is taken back as soon as
// the server has answered. So nobody is told what is not true, and a server that is
// new, or was set up anew, costs one round trip, once. It is asked once a second at
// most: made-up SYNs do not get through to it.
func (v *visit) hold(asks bool) {
	var s conntrack.State
	beginProxy(&s, v.p, v.now)
	s.Handshake.Held = true
	s.Handshake.Due = v.now + holdInterval
	if !v.insert(&s) {
		return
	}
	v.shard.Wait(v.state)
	if asks {
		v.state.Handshake.Tries = 1
		v.d.emit(serverSYN(v.state, v.everything(v.state)))
	}
}

// askedFirst says whether the server has heard of a client that waits.
func askedFirst(s *conntrack.State) bool { return s.Handshake.Held && s.Handshake.Tries > 0 }

// everything is what a SYN offers the server that is to show what it can do.
func (e *Engine) everything(s *conntrack.State) packet.Options {
	o := s.Handshake.Offered()
	o.HasWScale, o.SACKPermitted, o.HasTimestamp = true, true, e.stamps.Load()
	return o
}

// serverTells is for what a server says before its client has proved itself: it
// was asked what it can do.
func (v *visit) serverTells() {
	s, h, p := v.state, &v.state.Handshake, v.p
	answers := p.Flags.Has(packet.ACK) && p.Ack == h.Client+1
	switch {
	case p.IsSYNACK() && answers:
		v.d.emit(resetServer(s))
		if !askedFirst(s) {
			return
		}
		v.servers.Learn(s.Tuple, v.everything(s), p.Options, v.now)
		// While the hooks go in, the kernel may have made an entry of question and
		// answer, and would take the client's packets for those of that connection.
		v.d.Offload = deleteEntry(s.Tuple)
		v.d.emit(v.answerHeld(s, v.now))
		if v.remembers(v.stateRule()) {
			v.shard.Wait(s)
			return
		}
		v.cookiesSent(v.stateRule(), 1, v.now)
		v.remove()
	case p.Flags.Has(packet.RST) && answers && askedFirst(s):
		v.servers.Refuse(s.Tuple, v.now)
		v.d.emit(refuseHeld(s))
		v.remove()
	}
}

// refuseHeld is the answer to a client whose server refuses: the port does not look
// open.
func refuseHeld(s *conntrack.State) packet.Segment {
	return packet.Segment{Tuple: s.Tuple.Reverse(), Ack: s.Handshake.Client + 1, Flags: packet.RST | packet.ACK}
}

// answerHeld is the answer to a client that had to wait for it.
func (e *Engine) answerHeld(s *conntrack.State, now time.Duration) packet.Segment {
	h := &s.Handshake
	client := h.Offered()
	server, known := e.servers.Options(s.Tuple, now)
	told := e.told(&s.Tuple, &client, &server, known)
	e.answer(s, e.jar.Bake(s.Tuple, h.Client, syncookie.Options(&client, &told)), &told, now)
	return clientSYNACK(s)
}

// release answers a client that waits, if its server has answered another client,
// or has said nothing for long enough. It says whether to wait on.
func (e *Engine) release(sh *conntrack.Shard, s *conntrack.State, now time.Duration) bool {
	_, known := e.servers.Options(s.Tuple, now)
	refuses := e.servers.Refuses(s.Tuple, now)
	switch {
	case refuses && !known:
		e.decide().emit(refuseHeld(s))
		e.released = append(e.released, e.forget(sh, s))
		return false
	case !known && now < s.Created+holdTime:
		s.Handshake.Due = now + holdInterval
		return true
	}
	d := e.decide()
	if askedFirst(s) {
		d.Offload = deleteEntry(s.Tuple)
		d.emit(resetServer(s)) // the answer may come yet
	}
	d.emit(e.answerHeld(s, now))
	if e.remembers(e.ruleOf(s)) {
		return true
	}
	e.cookiesSent(e.ruleOf(s), 1, now)
	e.released = append(e.released, e.forget(sh, s))
	return false
}
