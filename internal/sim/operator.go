package sim

import (
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
)

// reload changes the file and has the engine take it: other limits, a rule under
// another name, one that vanishes or comes back. Only in a foul story clients may
// notice.
func (w *world) reload() {
	s := &w.services[w.rand.IntN(len(w.services))]
	switch what := w.rand.IntN(5); {
	case what == 0 && w.story.kind == foul:
		s.there = !s.there
		w.unruled = true
	case what == 1 && w.story.kind == foul:
		s.rule.Name += "'"
	default:
		w.story.limit(w.rand, &s.rule)
	}
	if s.there {
		w.says(&s.rule)
	}
	w.reloaded = w.clock.now
	if w.trace != nil {
		w.tracef("reload: %s, there: %v", describe(&s.rule), s.there)
	}
	w.gateway.informed().Reload(w.clock.now, w.config())
	w.gateway.engine.Withdraw(w.clock.now)
	w.recount()
}

// says notes what a rule says from now on.
func (w *world) says(x *rules.Rule) {
	before, known := w.said[x.Name]
	now := said{*x, w.clock.now}
	if known && before.MaxSrcConnRate == x.MaxSrcConnRate {
		now.rated = before.rated
	}
	w.said[x.Name] = now
}

// victim is a state that is killed.
type victim struct {
	name    name
	isn     seqnum.Value // the client's
	opening bool
	closed  bool
}

// kill has an operator end all connections, those of a client or of a rule, or one.
func (w *world) kill() {
	silent := oneIn(w.rand, 3)
	octet, service := byte(1+w.rand.IntN(w.story.clients)), w.services[w.rand.IntN(len(w.services))].rule.Name
	one := false
	matches := []func(*conntrack.State, string) bool{
		func(*conntrack.State, string) bool { return true },
		func(s *conntrack.State, _ string) bool { return s.Tuple.Src[15] == octet },
		func(_ *conntrack.State, rule string) bool { return rule == service },
		func(*conntrack.State, string) bool { was := one; one = true; return !was },
	}
	w.killAll(matches[w.rand.IntN(len(matches))], silent)
}

// killAll kills the connections for which match says true, and sees to it that both
// their ends come to know.
func (w *world) killAll(match func(*conntrack.State, string) bool, silent bool) {
	var victims []victim
	w.gateway.kill(func(s *conntrack.State, rule string) bool {
		is := match(s, rule)
		if is {
			victims = append(victims, victim{nameOf(s.Tuple), s.Handshake.Client, s.Opening(), s.Closed()})
		}
		return is
	}, silent)
	for _, v := range victims {
		w.mourn(v, silent)
	}
	w.recount()
}

// mourn notes that a connection was killed, and looks later whether both ends know.
func (w *world) mourn(v victim, silent bool) {
	if w.trace != nil {
		w.tracef("killed: %x, silent: %v", v.name, silent)
	}
	for _, a := range w.admissions {
		if a.name == v.name {
			a.killed = true
		}
	}
	client, server := w.clients.sockets[v.name], w.server.sockets[v.name]
	if client != nil {
		client.killed = true // another one has begun anew in the place of the first
		if client.iss != v.isn {
			client = nil
		}
	}
	if server != nil && server.irs != v.isn {
		server = nil
	}
	if !silent && !v.closed {
		w.expectEnd(v, client, server)
	}
}

// Both ends know of a kill within a second, or, in bad weather, within ten: then a
// question, an answer or a RST may have been lost. The last question is asked after
// lastQuestion; if the weather does not clear until then, nothing is promised.
const (
	knows        = time.Second
	knowsFoul    = 10 * time.Second
	lastQuestion = 3 * time.Second
)

func (w *world) expectEnd(v victim, client, server *socket) {
	after := knows
	if w.story.kind != fair {
		after = knowsFoul
		if v.opening || w.spoofed[v.name] || w.story.gateway.refuse == rules.RefuseDrop {
			return // a handshake that is lost is begun anew
		}
	}
	if w.story.kind == foul && w.clock.now+lastQuestion < w.story.weather.clears {
		return
	}
	w.clock.after(after, func() {
		for _, s := range []*socket{client, server} {
			if s != nil && s.state < timeWait && !w.spoofed[v.name] {
				w.failf("%v was killed %v ago, and goes on: %s", s.tuple, after, s)
			}
		}
	})
}

// overloaded puts a source into the table, and ends its connections if the rule says so.
func (w *world) overloaded(o *engine.Overload) {
	if w.abusers.find(o.Prefix.Addr()) != nil {
		return
	}
	w.abusers.overloads = append(w.abusers.overloads, *o)
	w.gateway.engine.Withdraw(w.clock.now)
	if w.trace != nil {
		w.tracef("overload: %+v", *o)
	}
	if o.Flush != rules.FlushNone {
		w.killAll(func(s *conntrack.State, rule string) bool {
			return o.Prefix.Contains(s.Tuple.Src.Netip()) && (o.Flush == rules.FlushGlobal || rule == o.Rule)
		}, false)
	}
}
