package sim

import (
	"slices"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
	"nfqfw/internal/syncookie"
)

// tickInterval is the daemon's.
const tickInterval = 100 * time.Millisecond

// tells is for how long the engine tells both ends of a connection that is killed,
// until it forgets it.
const tells = 8 * time.Second

// gateway is the machine with the firewall: a model of the hooks and of
// conntrack around the real engine.
type gateway struct {
	world    *world
	engine   *engine.Engine
	entries  map[name]*entry
	toClient *link
	toServer *link
	decision engine.Decision
	noting   engine.Decision // about a copy, while another decision may wait to be carried out
	packet   packet.Packet   // that is being judged
	out      packet.Packet   // that is being sent
	queries  []packet.Tuple
	waiting  []waiting              // in the queue, if it is slow
	noted    int                    // copies, so far
	copies   []packet.Packet        // that the engine has not taken note of yet
	grants   *grant.Table           // nil: it is asked about every SYN
	answers  *syncookie.Table       // nil: and answers none itself
	cookies  syncookie.Memory       // of that
	memory   []grant.Slot           // of the grants
	closing  map[name]time.Duration // when a FIN has last passed
	tickAt   time.Duration          // the next tick; never: nothing can come of one
	telling  time.Duration          // until when both ends of killed connections are told
	ticked   func(*engine.Decision)
}

// receive is the way of a packet through the hooks.
func (g *gateway) receive(seen *packet.Packet) {
	g.packet = *seen
	p := &g.packet
	e := g.entries[nameOf(p.Tuple)]
	if p.Flags.Has(packet.SYN) && !p.Flags.Has(packet.RST) {
		if g.answers != nil && g.answer(p) {
			return
		}
		if g.grants != nil && g.grants.Passes(p) && g.opens(p, e) {
			return
		}
		p.Conn = packet.ConnNone
		g.queue(p)
		return
	}
	switch {
	case e == nil:
		p.Conn = packet.ConnNew
	case e.connmark == packet.MarkOpening:
		p.Conn = packet.ConnOpening
	default:
		p.Conn = packet.ConnEstablished
	}
	if e != nil {
		e.last = g.world.clock.now
		if !e.track(p) {
			p.Conn = packet.ConnInvalid
		}
	}
	if p.Conn == packet.ConnOpening && g.admits(p, e) {
		return
	}
	if p.Conn == packet.ConnEstablished && e.passes(p) {
		if e.copies(p) {
			g.copy(p)
		}
		if w := g.world; w.trace != nil {
			w.tracef("%v: in the kernel", show(p))
		}
		g.forward(p, e)
		return
	}
	if g.answers != nil && (p.Conn == packet.ConnNew || p.Conn == packet.ConnInvalid) && g.unproven(p) {
		return
	}
	g.queue(p)
}

// unproven says whether a packet of no connection is dropped, for it repeats no cookie.
func (g *gateway) unproven(p *packet.Packet) bool {
	w := g.world
	if w.story.gateway.demands {
		g.answers.Demand(true)
	}
	drops := g.answers.Unproven(w.clock.now, p)
	if drops && w.trace != nil {
		w.tracef("%v: dropped in the kernel", show(p))
	}
	return drops
}

// answer answers a SYN of a client that no rule and no table names, as the engine would, and
// says whether it did. That is before the hooks, and the engine is not asked.
func (g *gateway) answer(p *packet.Packet) bool {
	w := g.world
	if w.abusers.find(p.Src.Netip()) != nil {
		return false
	}
	told, ok := g.answers.Answer(w.clock.now, p)
	if !ok {
		return false
	}
	if w.trace != nil {
		w.tracef("%v: answered in the kernel", show(p))
	}
	s := syncookie.SYNACK(g.answers.Jar(), p, told)
	g.wake()
	g.inject(&s)
	return true
}

// clearAnswers makes the gateway's memory of services one of none.
func (g *gateway) clearAnswers(seed uint64) *syncookie.Table {
	if g.cookies.Header == nil {
		g.cookies = syncookie.NewModel()
	}
	g.cookies.Clear()
	g.answers = syncookie.New(g.cookies, seed)
	return g.answers
}

// opens lets a SYN or SYN+ACK pass that is granted, if conntrack takes the one for the
// beginning of a connection and the other for its answer, and says whether it did.
func (g *gateway) opens(p *packet.Packet, e *entry) bool {
	w := g.world
	opening := e != nil && e.connmark == packet.MarkOpening
	again := opening && p.Tuple == e.original && !e.sent[1]
	switch {
	case p.IsSYN() && g.closes(p):
		return false
	case p.IsSYN() && (e == nil || e.over()):
		e = g.remember(entry{original: p.Tuple, connmark: packet.MarkOpening})
		e.trackSYN(p, true)
	case p.IsSYN() && again:
		e.trackSYN(p, false)
	case p.IsSYNACK() && opening && p.Tuple != e.original && e.answers(p):
		e.trackSYN(p, false)
		e.answered, e.answer = true, p.Seq
	default:
		return false
	}
	e.last = w.clock.now
	p.Conn = packet.ConnNone
	g.copy(p)
	if w.trace != nil {
		w.tracef("%v: granted", show(p))
	}
	g.forward(p, e)
	return true
}

// admits lets the ACK pass that completes a handshake, if its connection's admission is
// granted, and says whether it did.
func (g *gateway) admits(p *packet.Packet, e *entry) bool {
	w := g.world
	if g.grants == nil || p.Tuple != e.original || !e.answered || p.Ack != e.answer+1 || p.Flags.Any(packet.SYN|packet.FIN|packet.RST) {
		return false
	}
	by, ok := g.grants.Admits(p)
	if !ok {
		return false
	}
	e.connmark = packet.MarkClear
	told := *p
	told.Conn, told.Admitted, told.Grant = packet.ConnEstablished, true, by
	g.copy(&told)
	if w.trace != nil {
		w.tracef("%v: admitted in the kernel", show(p))
	}
	w.admittedInKernel(p)
	g.forward(p, e)
	return true
}

// closes says whether a connection of the packet's tuple may have been closed without the
// engine knowing yet.
func (g *gateway) closes(p *packet.Packet) bool {
	at, ok := g.closing[nameOf(p.Tuple)]
	return ok && g.world.clock.now < at+grant.Grace
}

// copy has the engine take note of a packet that passes, before it judges the next.
func (g *gateway) copy(p *packet.Packet) {
	if p.Flags.Has(packet.FIN) {
		g.closing[nameOf(p.Tuple)] = g.world.clock.now
	}
	g.copies = append(g.copies, *p)
	g.wake()
}

// clearGrants makes the gateway's memory of grants one of none.
func (g *gateway) clearGrants(seed uint64) *grant.Table {
	if g.memory == nil {
		g.memory = grant.Memory()
	}
	g.grants = grant.New(g.memory, seed)
	return g.grants
}

// queue has the engine judge a packet, as the daemon does: at once, or, if the queue is
// slow, a little later. What passes in the kernel meanwhile is not known then.
func (g *gateway) queue(p *packet.Packet) {
	g.wake()
	if !g.world.story.gateway.slow {
		g.takeCopies(len(g.copies))
		g.judge(p)
		return
	}
	g.waiting = append(g.waiting, waiting{*p, len(g.copies) + g.noted})
	g.world.clock.after(time.Duration(g.world.rand.IntN(3))*time.Millisecond, g.judgeNext)
}

// waiting is a packet in a queue, and how many packets had passed when it came.
type waiting struct {
	packet packet.Packet
	passed int
}

func (g *gateway) judgeNext() {
	next := g.waiting[0]
	g.waiting = g.waiting[1:]
	g.takeCopies(max(next.passed-g.noted, 0))
	g.packet = next.packet
	g.judge(&g.packet)
}

func (g *gateway) judge(p *packet.Packet) {
	d, w := &g.decision, g.world
	g.handle(p, d)
	if w.trace != nil {
		w.tracef("%v conn %d: %v %v mark %x", show(p), p.Conn, d.Verdict, d.Reason, d.Mark)
	}
	w.checkRefusal(&d.Refusal)
	if isn, ok := w.letsThrough(p, d); ok {
		w.admitted(p, isn)
	}
	pass, mark, overload := d.Verdict == packet.Pass, d.Mark, d.Overload
	g.carryOut(d)
	if overload.Table != "" {
		w.overloaded(&overload)
	}
	if !pass {
		return
	}
	e := g.entries[nameOf(p.Tuple)] // as it is after the order
	again := e != nil && e.connmark == packet.MarkOpening && p.Tuple == e.original
	begins := p.IsSYN() && mark == packet.MarkOpening && !again
	picksUp := e == nil && !p.Flags.Any(packet.FIN|packet.RST) // conntrack makes no entry of those
	unruled := e == nil && p.IsSYN()
	if mark != packet.MarkSeen && (picksUp || begins) || unruled {
		e = g.remember(entry{original: p.Tuple, last: w.clock.now})
	}
	if e != nil && p.Flags.Has(packet.SYN) {
		e.trackSYN(p, begins || unruled) // conntrack sees it only now that it may pass
	}
	if e != nil && mark != packet.MarkSeen {
		e.connmark = mark
	}
	g.forward(p, e)
}

// handle has the engine decide about a packet, or take note of it.
func (g *gateway) handle(p *packet.Packet, d *engine.Decision) {
	now := g.world.clock.now
	g.engine.Handle(now, p, d)
	if d.Offload.Op == packet.OffloadQuery {
		p.Kernel = g.entries[nameOf(p.Tuple)].shows()
		g.engine.Handle(now, p, d)
	}
	if d.Again {
		g.takeCopies(len(g.copies))
		p.Noted = true
		g.engine.Handle(now, p, d)
	}
}

// takeCopies has the engine take note of the first n of what has passed. Until somebody
// wants to know, copies wait.
func (g *gateway) takeCopies(n int) {
	for i := range n {
		p := &g.copies[i]
		p.Copied = true
		g.handle(p, &g.noting)
		if w := g.world; w.trace != nil {
			w.tracef("%v: noted", show(p))
		}
		g.carryOut(&g.noting)
	}
	told := slices.Clone(g.copies[:n])
	g.copies = slices.Delete(g.copies, 0, n)
	g.noted += n
	for i := range told {
		if told[i].Admitted {
			g.world.told(&told[i])
		}
	}
}

// informed is the engine, when it knows all that has happened.
func (g *gateway) informed() *engine.Engine {
	g.takeCopies(len(g.copies))
	return g.engine
}

// remember makes an entry, in place of the one that there was.
func (g *gateway) remember(e entry) *entry {
	n := nameOf(e.original)
	old := g.entries[n]
	if old == nil {
		old = new(entry)
		g.entries[n] = old
	}
	*old = e
	return old
}

// create makes an entry that the engine orders. A full kernel has no room for a
// connection's first one.
func (g *gateway) create(o *packet.Offload) bool {
	w := g.world
	if o.Join && w.story.gateway.full && w.rand.IntN(4) == 0 {
		return false
	}
	g.remember(entry{original: o.Tuple, connmark: o.Mark, diff: o.SeqDiff, stamps: o.TSDiff, last: w.clock.now})
	return true
}

// carryOut does what a decision orders but for the verdict.
func (g *gateway) carryOut(d *engine.Decision) {
	w := g.world
	if d.Evicted.Op == packet.OffloadDelete {
		delete(g.entries, nameOf(d.Evicted.Tuple))
	}
	switch o := &d.Offload; o.Op {
	case packet.OffloadCreate:
		if w.trace != nil {
			w.tracef("    create %v", o.Tuple)
		}
		if !g.create(o) {
			g.engine.Abort(g.world.clock.now, o.Tuple, d)
		}
	case packet.OffloadDelete:
		if w.trace != nil {
			w.tracef("    delete %v", o.Tuple)
		}
		delete(g.entries, nameOf(o.Tuple))
	case packet.OffloadMark:
		if e := g.entries[nameOf(o.Tuple)]; e != nil {
			e.connmark = o.Mark
		}
	}
	segments := d.Segments()
	for i := range segments {
		g.inject(&segments[i])
	}
}

// inject sends a segment of the engine's.
func (g *gateway) inject(s *packet.Segment) {
	g.out = packet.Packet{Tuple: s.Tuple, Seq: s.Seq, Ack: s.Ack, Flags: s.Flags, Window: s.Window, Options: s.Options}
	if w := g.world; w.trace != nil {
		w.tracef("    send %v", show(&g.out))
	}
	if e := g.entries[nameOf(s.Tuple)]; s.Tracked && e != nil {
		e.track(&g.out)
		g.forward(&g.out, e)
		return
	}
	g.route(&g.out)
}

// forward sends a packet on, with its numbers translated.
func (g *gateway) forward(p *packet.Packet, e *entry) {
	if e != nil && e.side(p) == 0 {
		p.Ack = p.Ack.Sub(e.diff)
		p.Options.TSEcr -= e.stamps
	} else if e != nil {
		p.Seq = p.Seq.Add(e.diff)
		p.Options.TSVal += e.stamps
	}
	g.route(p)
}

func (g *gateway) route(p *packet.Packet) {
	if isServer(p.DstPort) {
		g.toServer.send(p)
		return
	}
	g.toClient.send(p)
}

// wake sees to it that what has happened now has its tick.
func (g *gateway) wake() {
	if soon := g.world.clock.now.Truncate(tickInterval) + tickInterval; soon < g.tickAt {
		g.tickAt = soon
	}
}

// tick is what the daemon does ten times a second, while something can come of it.
func (g *gateway) tick() {
	now := g.world.clock.now
	g.queries = g.queries[:0]
	g.informed().Tick(now, g.ticked)
	for _, t := range g.queries {
		e := g.entries[nameOf(t)]
		var idle time.Duration
		if e != nil {
			idle = now - e.last
		}
		g.engine.Idle(now, t, idle, e != nil, &g.decision)
		g.carryOut(&g.decision)
	}
	g.tickAt = g.nextTick()
}

// kill ends the connections for which match says true.
func (g *gateway) kill(match func(*conntrack.State, string) bool, silent bool) {
	now := g.world.clock.now
	if g.informed().Kill(now, match, silent, g.carryOut) > 0 && !silent {
		g.telling = now + tells
		g.wake()
	}
}

// decided is called by the engine's Tick.
func (g *gateway) decided(d *engine.Decision) {
	if d.Offload.Op == packet.OffloadQuery {
		g.queries = append(g.queries, d.Offload.Tuple)
		return
	}
	g.carryOut(d)
}

// nextTick skips the ticks from which nothing can come: until a state has something
// due, or a packet wakes the gateway. While there is traffic it does not look.
func (g *gateway) nextTick() time.Duration {
	next := g.world.clock.now + tickInterval
	switch {
	case next < g.telling:
		return next
	case g.engine.Grants(): // for a while, then it takes them back
		return next
	case g.engine.Len() == 0:
		return never
	case g.world.clock.next() < next:
		return next
	}
	return max(next, (g.due() + tickInterval - 1).Truncate(tickInterval))
}

// due is when the first of the states has something due.
func (g *gateway) due() time.Duration {
	now := g.world.clock.now
	first, listed := never-tickInterval, 0
	_ = g.engine.States(now, func(l *engine.Listed) error {
		listed++
		first = min(first, now+l.ExpiresIn)
		if l.Handshake.Due > now {
			first = min(first, l.Handshake.Due)
		}
		return nil
	})
	if listed < g.engine.Len() {
		return now // some are over, and not listed any more
	}
	return first
}
