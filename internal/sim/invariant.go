package sim

import (
	"slices"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// clientOf is the honest client of a server's socket, if it knows the connection.
func (w *world) clientOf(s *socket) *socket {
	if !w.knows(nameOf(s.tuple), s.irs) {
		return nil
	}
	c := w.clients.sockets[nameOf(s.tuple)]
	if c.state != established || w.spoofed[nameOf(s.tuple)] {
		return nil
	}
	return c
}

// knows says whether an honest client has a connection of this initial number.
//
// A cookie that comes back late, in a copy of an older connection's ACK, begins one
// that its client knows nothing of, and that is in the way of the client's next. With
// nothing remembered of either nobody can tell which of them is the older.
func (w *world) knows(n name, isn seqnum.Value) bool {
	c := w.clients.sockets[n]
	known := c != nil && c.iss == isn
	if !known && w.story.gateway.cookies != synproxy.CookiesNever {
		w.spoofed[n] = true
	}
	return known
}

// checkOptions holds that client and server read each other right, when the server's
// handshake s is done.
func (w *world) checkOptions(s *socket) {
	c := w.clientOf(s)
	if c == nil || s.admitted == nil { // without a rule nobody clears what is left of another
		return
	}
	c.accepted = w.clock.now
	clientScales, serverScales := c.own.HasWScale && c.peer.HasWScale, s.own.HasWScale && s.peer.HasWScale
	switch {
	case clientScales != serverScales:
		w.failf("%v: client scales: %v, server: %v", c.tuple, clientScales, serverScales)
	case clientScales && c.peer.WScale != s.own.WScale:
		w.failf("%v: the server scales by %d, the client takes it for %d", c.tuple, s.own.WScale, c.peer.WScale)
	case clientScales && s.peer.WScale > c.own.WScale:
		// A cookie may have less than the client said.
		w.failf("%v: the client scales by %d, the server takes it for %d", c.tuple, c.own.WScale, s.peer.WScale)
	}
	if c.stamps != s.stamps {
		w.failf("%v: client sends timestamps: %v, server: %v", c.tuple, c.stamps, s.stamps)
	}
}

// recount holds the engine's counts against those made of its table.
func (w *world) recount() {
	if err := w.gateway.informed().Recount(); err != nil {
		w.failf("%v", err)
	}
}

// outcomes holds that every honest connection came to an end its client knows of.
func (w *world) outcomes() {
	for _, s := range w.honest {
		switch {
		case w.spoofed[nameOf(s.tuple)]:
		case s.lost():
			w.failf("%v, begun at %v: %s", s.tuple, s.began, s)
		case w.story.kind != foul && s.outcome != finished && !s.killed:
			w.failf("%v, begun at %v in %s weather: %s", s.tuple, s.began, kindNames[w.story.kind], s)
		}
		if w.story.kind != foul && !s.aborted && !s.killed && !w.spoofed[nameOf(s.tuple)] && !s.madeIt() {
			w.failf("%v, begun at %v: accepted at %v, usable at %v", s.tuple, s.began, s.accepted, s.usable)
		}
	}
}

// lost says whether a connection came to no end, or to none that its client heard of.
func (s *socket) lost() bool {
	complete := s.peerFIN && s.wantSend == 0 // only the last ACK may be missing: nothing is lost with it
	heard := s.rcvNxt != 0                   // at least once: else the network ate every SYN
	st := &s.world.story
	told := st.gateway.refuse == rules.RefuseReset
	// What a kernel without its entry learns from late packets, or of a server that has
	// forgotten what it said, is put right only after its client has given up.
	misled := st.gateway.flushes && (st.weather != weather{} || st.server.reboots)
	// Of a server that says what is no answer, the gateway may take the wrong one for it.
	misled = misled || st.server.garbage > 0 && st.weather != weather{}
	// Where no rule is, nobody speaks for a server that is silent, nor to one who knows
	// other numbers than its peer, nor again to one that was refused and has not heard.
	unheard := s.accepted == 0 && st.weather != weather{}
	misled = misled || s.world.unruled &&
		(st.server.silent || s.killed || unheard || st.gateway.cookies != synproxy.CookiesNever)
	return s.outcome == pending || s.outcome == gaveUp && heard && told && !misled && !complete
}

// madeIt says whether a handshake was done in time. A client that waits for its server
// to speak, and whose ACK is lost, is answered again; but not where cookies are baked,
// as nobody remembers it, nor under pressure.
func (s *socket) madeIt() bool {
	st, pressed := &s.world.story, s.world.gateway.informed().Total().Switches > 0
	if st.kind == unlucky && st.asks == 0 && (pressed || st.gateway.cookies != synproxy.CookiesNever) {
		return true
	}
	inTime := func(at time.Duration) bool { return at != 0 && at-s.began <= reconnects }
	return inTime(s.accepted) && inTime(s.usable)
}

// settle is how long after the last connection is over none may count any more, if
// the story is not foul.
const settle = 5 * time.Second

// watch looks, once a second, whether all connections are over.
func (w *world) watch() {
	if !w.quiet() {
		w.clock.after(time.Second, w.watch)
		return
	}
	w.clock.after(settle, func() {
		_ = w.gateway.informed().Sources(w.clock.now, func(l *engine.ListedSource) error {
			if l.Conns > 0 && w.quiet() && w.story.gateway.count == rules.CountServerEstablished {
				w.failf("%d connections of %v count, and all are over", l.Conns, l.Key.Prefix)
			}
			return nil
		})
	})
}

// quiet says whether no connection is left, nor one to come.
func (w *world) quiet() bool {
	over := func(s *socket) bool { return s.state >= timeWait }
	return w.clock.now > w.story.openFor+reopen && all(w.honest, over) && all(w.served, over)
}

func all(sockets []*socket, is func(*socket) bool) bool {
	return !slices.ContainsFunc(sockets, func(s *socket) bool { return !is(s) })
}

// leftovers holds that nothing outlives the connections, and no pressure what made it.
func (w *world) leftovers() {
	w.clock.now = max(w.clock.now, horizon)
	w.rotate()
	w.rotate()
	w.gateway.tick()
	w.calm(w.gateway.informed().Total())
	w.gateway.informed().Pressures(w.calm)
	w.recount()
	if n := w.gateway.informed().Len(); n > 0 {
		w.failf("%d states are left", n)
	}
	for i := 0; i < conntrack.Sweeps && w.gateway.informed().SourceLen() > 0; i++ {
		w.gateway.tick()
	}
	if n := w.gateway.informed().SourceLen(); n > 0 {
		w.failf("%d sources are left", n)
	}
	_ = w.gateway.informed().Rules(func(l *engine.ListedRule) error {
		if l.Gone || l.States > 0 {
			w.failf("rule %s, gone: %v, is left with %d states", l.Rule.Name, l.Gone, l.States)
		}
		return nil
	})
	for _, e := range w.gateway.entries {
		if e.diff != 0 || e.connmark == packet.MarkOpening {
			w.failf("an entry is left in the kernel: %v, mark %x, translates by %d", e.original, e.connmark, e.diff)
		}
	}
}

func (w *world) calm(p engine.Pressure) {
	if p.On || p.HalfOpen != 0 {
		w.failf("%d are half-open, pressure %v", p.HalfOpen, p.On)
	}
}
