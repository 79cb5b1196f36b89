package sim

import (
	"slices"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
)

// admission is a connection that the gateway has let through to its server.
type admission struct {
	at     time.Duration
	name   name
	isn    seqnum.Value        // the client's
	rule   string              // that let it through; empty: it counts for none
	source conntrack.SourceKey // zero: for none
	killed bool
}

// letsThrough says whether a client's packet, by what the gateway does about it, brings
// a connection to the server: its server is asked now that the client has proved itself,
// or it completes a handshake. It tells the client's initial number.
func (w *world) letsThrough(p *packet.Packet, d *engine.Decision) (isn seqnum.Value, ok bool) {
	if !isServer(p.DstPort) || p.Flags&(packet.ACK|packet.RST) != packet.ACK {
		return 0, false
	}
	for _, s := range d.Segments() {
		if s.Flags == packet.SYN && isServer(s.DstPort) {
			return s.Seq, true
		}
	}
	e, s := w.gateway.entries[nameOf(p.Tuple)], w.server.sockets[nameOf(p.Tuple)]
	slot := w.slotOf(nameOf(p.Tuple))
	opening := e != nil && e.connmark == packet.MarkOpening || e == nil && (slot == nil || slot.killed)
	completes := opening && d.Verdict == packet.Pass && d.Mark != packet.MarkOpening && d.Mark != packet.MarkSeen
	if s != nil {
		isn = s.irs
	}
	return isn, completes
}

// admissionOf is the last admission of a connection, or nil.
func (w *world) admissionOf(n name, isn seqnum.Value) *admission {
	return w.lastAdmission(func(a *admission) bool { return a.name == n && a.isn == isn })
}

// slotOf is the last admission of a tuple. If client and server have begun anew where
// the gateway knows of an older connection, the new one goes on in its slot.
func (w *world) slotOf(n name) *admission {
	return w.lastAdmission(func(a *admission) bool { return a.name == n })
}

func (w *world) lastAdmission(is func(*admission) bool) *admission {
	for i := len(w.admissions) - 1; i >= 0; i-- {
		if a := w.admissions[i]; is(a) {
			return a
		}
	}
	return nil
}

// admitted notes that the packet's connection was let through, and holds it to all limits.
func (w *world) admitted(p *packet.Packet, isn seqnum.Value) {
	a := w.admission(p, isn)
	w.identify(a, p)
	w.hold(a, p)
}

// admission notes that the packet's connection was let through.
func (w *world) admission(p *packet.Packet, isn seqnum.Value) *admission {
	a := &admission{at: w.clock.now, name: nameOf(p.Tuple), isn: isn}
	w.admissions = append(w.admissions, a)
	w.knows(a.name, isn)
	return a
}

// admittedInKernel notes that the kernel has let a connection through. What it counts for
// is known when the engine knows of it.
func (w *world) admittedInKernel(p *packet.Packet) {
	var isn seqnum.Value
	if s := w.server.sockets[nameOf(p.Tuple)]; s != nil {
		isn = s.irs
	}
	w.untold = append(w.untold, w.admission(p, isn))
}

// told is for when the engine has taken note of the next that the kernel has let through.
// If its rule has vanished since its SYN, it had its place by another.
func (w *world) told(p *packet.Packet) {
	a := w.untold[0]
	w.untold = w.untold[1:]
	w.identify(a, p)
	if slices.ContainsFunc(w.services, func(s service) bool { return s.rule.Name == a.rule }) {
		w.hold(a, p)
	}
}

// identify finds out what an admission counts for.
func (w *world) identify(a *admission, p *packet.Packet) {
	_ = w.gateway.informed().States(w.clock.now, func(l *engine.Listed) error {
		if l.Tuple == p.Tuple && l.Admitted() {
			a.rule = l.RuleName
			if src := l.Source(); src != nil {
				a.source = src.Key
			}
		}
		return nil
	})
}

// hold holds an admission to all limits.
func (w *world) hold(a *admission, p *packet.Packet) {
	if a.rule == "" || a.at < w.reloaded {
		return // a limit was another, or no rule was there when it began, or with so many states its time is over
	}
	w.checkFlushed(a, p)
	if x := w.said[a.rule]; !x.CountOnly {
		w.checkServed(a, &x)
		w.checkTable(a, &x)
		w.checkRate(a, &x)
	}
}

// holds counts the other connections that the server holds, of those that were admitted for
// the same source, and for the same rule.
func (w *world) holds(a *admission) (ofSource, ofRule int) {
	for _, s := range w.served {
		b := s.admitted
		if b == nil || b == a || b.rule == "" || b.killed || s.state != established || s.finSent {
			continue
		}
		if b.source == a.source {
			ofSource++
		}
		if b.rule == a.rule {
			ofRule++
		}
	}
	return ofSource, ofRule
}

// checkServed holds that the server has fewer connections than there may be.
func (w *world) checkServed(a *admission, x *said) {
	ofSource, ofRule := w.holds(a)
	w.within("max_src_conn", a, ofSource+1, x.MaxSrcConn)
	w.within("max_src_states", a, ofSource+1, x.MaxSrcStates)
	w.within("max", a, ofRule+1, x.Max)
}

// within holds that there are not more than there may be, now that a connection is
// let through. A limit of 0 is none; what only a source has counts only of one.
func (w *world) within(what string, a *admission, n int, limit uint32) {
	if limit > 0 && n > int(limit) {
		w.failf("%s: %x is let through, and there are %d of %d, rule %s, source %v", what, a.name, n, limit, a.rule, a.source)
	}
}

// checkTable holds that the table has no more than there may be.
func (w *world) checkTable(a *admission, x *said) {
	slots, ofSource, ofRule := 0, 0, 0
	sources := make(map[conntrack.SourceKey]bool)
	_ = w.gateway.informed().States(w.clock.now, func(l *engine.Listed) error {
		var source conntrack.SourceKey
		if src := l.Source(); src != nil {
			source = src.Key
			if source.Rule == a.source.Rule {
				sources[source] = true
			}
		}
		if l.Counting && source == a.source {
			slots++
		}
		if l.Admitted() && source == a.source {
			ofSource++
		}
		if l.Admitted() && l.RuleName == a.rule {
			ofRule++
		}
		return nil
	})
	w.within("max_src_conn", a, slots, x.MaxSrcConn)
	w.within("max_src_states", a, ofSource, x.MaxSrcStates)
	if ofSource == 1 && w.isNew(a.source) {
		w.within("max_src_nodes", a, len(sources), x.MaxSrcNodes)
	}
	w.within("max", a, ofRule, x.Max)
}

// isNew says whether a source was not there before now. One that was may have a state
// more, whatever the limit: the states that it had may be among those that no listing
// shows, or have made room for this one.
func (w *world) isNew(k conntrack.SourceKey) (is bool) {
	_ = w.gateway.informed().Sources(w.clock.now, func(l *engine.ListedSource) error {
		is = is || l.Key == k && l.Age == 0
		return nil
	})
	return is
}

// checkRate holds that no window has more admissions than there may be, of those since
// the rate is what it is.
func (w *world) checkRate(a *admission, x *said) {
	if w.story.gateway.sources == fewSources {
		return // it may not remember
	}
	since := max(a.at-x.MaxSrcConnRate.Window, x.rated)
	n := 0
	for _, b := range w.admissions {
		if b.source == a.source && b.at > since {
			n++
		}
	}
	w.within("max_src_conn_rate", a, n, x.MaxSrcConnRate.Count)
}

// checkFlushed holds that nothing of a source comes through once it was flushed.
func (w *world) checkFlushed(a *admission, p *packet.Packet) {
	o := w.abusers.find(p.Src.Netip())
	if o != nil && (o.Flush == rules.FlushGlobal || o.Flush == rules.FlushRule && o.Rule == a.rule) {
		w.failf("%v is let through, and was flushed: %+v", p.Tuple, *o)
	}
}

// checkRefusal holds that a rule that only counts refuses nobody.
func (w *world) checkRefusal(r *engine.Refusal) {
	if r.Enforced && r.Reason != packet.ReasonMemory && w.said[r.Rule].CountOnly {
		w.failf("rule %s only counts, and refuses: %+v", r.Rule, *r)
	}
}

// checkAccepted holds that a connection that the server has accepted was let through,
// and that with it there are not more than there may be.
func (w *world) checkAccepted(s *socket) {
	a := w.admissionOf(nameOf(s.tuple), s.irs)
	if !w.services[s.tuple.SrcPort-serverPort].there {
		a = nil // it may have come through with no rule to ask
	}
	if s.admitted = a; a == nil && !w.unruled {
		s.admitted = w.slotOf(nameOf(s.tuple))
	}
	switch {
	case s.admitted == nil && (w.spoofed[nameOf(s.tuple)] || w.story.server.garbage > 0):
		// The kernel has taken a SYN of the server's, or in its name, for one of a
		// connection that no rule is about, and lets through what answers it.
	case s.admitted == nil && !w.unruled:
		w.failf("%v is accepted, and was not let through", s.tuple)
	case a == nil || a.rule == "" || a.killed || a.at <= w.reloaded: // no more is known, or a limit was another
	default:
		x := w.loosest(a)
		ofSource, ofRule := w.holds(a)
		w.within("accepted, max_src_conn", a, ofSource+1, x.MaxSrcConn)
		w.within("accepted, max", a, ofRule+1, x.Max)
	}
}

// loosest are the limits of an admission's rule, or, of a source that counts for
// several, the highest of theirs.
func (w *world) loosest(a *admission) said {
	x := w.said[a.rule]
	if x.CountOnly {
		return said{}
	}
	if x.SourceTrack == rules.TrackGlobal {
		for i := range w.services {
			y := &w.services[i].rule
			if y.SourceTrack == rules.TrackGlobal {
				if x.MaxSrcConn == 0 || y.MaxSrcConn == 0 || y.CountOnly {
					x.MaxSrcConn = 0
				} else {
					x.MaxSrcConn = max(x.MaxSrcConn, y.MaxSrcConn)
				}
			}
		}
	}
	return x
}
