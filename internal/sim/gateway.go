package sim

import (
	"time"

	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// entry is what the gateway's kernel knows of a connection.
type entry struct {
	original packet.Tuple
	connmark packet.Mark
	diff     seqnum.Size     // added to the server's numbers
	maxAck   [2]seqnum.Value // the highest number each side has acknowledged, as that side says it
	acked    [2]bool
	maxEnd   [2]seqnum.Value // the end of what each side has sent
	sent     [2]bool
	last     time.Duration
}

// gateway is the machine with the firewall: a model of the hooks and of
// conntrack around the real engine.
type gateway struct {
	world    *world
	engine   *engine.Engine
	entries  map[packet.Key]*entry
	toClient *link
	toServer *link
	decision engine.Decision
}

// side is 0 for a packet of the client's, 1 for one of the server's.
func (e *entry) side(p *packet.Packet) int {
	if p.Tuple == e.original {
		return 0
	}
	return 1
}

// receive is the way of a packet through the hooks.
func (g *gateway) receive(p packet.Packet) {
	e := g.entries[p.Tuple.Key()]
	if p.Flags.Has(packet.SYN) && !p.Flags.Has(packet.RST) {
		p.Conn = packet.ConnNone
		g.queue(p, e)
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
		if !e.track(&p) {
			p.Conn = packet.ConnInvalid
		}
	}
	payload := p.Conn == packet.ConnEstablished && e.connmark != packet.MarkTrack && !p.Flags.Any(packet.FIN|packet.RST)
	if payload {
		g.world.tracef("%v %v seq %d ack %d len %d: in the kernel", p.Tuple, p.Flags, p.Seq, p.Ack, p.PayloadLen)
		g.forward(p, e)
		return
	}
	g.queue(p, e)
}

// track is conntrack's view of a packet, false if it is outside the window.
// Before the other side has acknowledged anything every number will do.
func (e *entry) track(seen *packet.Packet) bool {
	side := e.side(seen)
	p := *seen
	if side == 0 {
		p.Ack = p.Ack.Sub(e.diff) // all in the numbers their sender uses
	}
	if p.Flags.Has(packet.SYN) {
		e.maxAck[side], e.acked[side] = p.Ack, p.Flags.Has(packet.ACK)
		e.maxEnd[side], e.sent[side] = p.End(), true
		return true
	}
	other := e.maxAck[1-side]
	known := e.acked[1-side]
	if known && (p.Seq+1).LessThan(other) && p.Flags.Has(packet.RST) || known && other.Add(65535).LessThan(p.Seq) {
		return false
	}
	if p.Flags.Has(packet.ACK) && e.sent[1-side] && (e.maxEnd[1-side] + 1).LessThan(p.Ack) {
		return false // it acknowledges what was never sent, and is no answer to a keepalive
	}
	if e.sent[side] && !e.near(side, p.Seq) {
		return false
	}
	if p.Flags.Has(packet.RST) {
		return true
	}
	if p.Flags.Has(packet.ACK) && (!e.acked[side] || e.maxAck[side].LessThan(p.Ack)) {
		e.maxAck[side], e.acked[side] = p.Ack, true
	}
	if !e.sent[side] || e.maxEnd[side].LessThan(p.End()) {
		e.maxEnd[side], e.sent[side] = p.End(), true
	}
	return true
}

// near says whether a number is not far from all that a side has sent so far.
func (e *entry) near(side int, seq seqnum.Value) bool {
	const far = 1 << 17
	return e.sent[side] && (seq.Size(e.maxEnd[side]) <= far || e.maxEnd[side].Size(seq) <= far)
}

// queue has the engine judge a packet, as the daemon does.
func (g *gateway) queue(p packet.Packet, e *entry) {
	d := &g.decision
	g.engine.Handle(g.world.clock.now, &p, d)
	if d.Offload.Op == packet.OffloadQuery {
		p.Kernel = g.query(p.Tuple)
		g.engine.Handle(g.world.clock.now, &p, d)
	}
	g.world.tracef("%v %v seq %d ack %d len %d conn %d: %v %v mark %x", p.Tuple, p.Flags, p.Seq, p.Ack, p.PayloadLen, p.Conn, d.Verdict, d.Reason, d.Mark)
	g.carryOut(d)
	if d.Verdict == packet.Drop {
		return
	}
	begins := p.IsSYN() && d.Mark == packet.MarkOpening
	picksUp := e == nil && !p.Flags.Any(packet.FIN|packet.RST) // conntrack makes no entry of those
	if d.Mark != packet.MarkSeen && (picksUp || begins) {
		e = &entry{original: p.Tuple, last: g.world.clock.now}
		g.entries[p.Tuple.Key()] = e
	}
	answers := p.IsSYNACK() && d.Mark != packet.MarkSeen && e != nil && !e.near(e.side(&p), p.Seq)
	if e != nil && (begins || answers) {
		if answers && e.acked[1-e.side(&p)] { // it answers a SYN inside a connection
			e.acked, e.sent = [2]bool{}, [2]bool{}
		}
		e.track(&p) // conntrack sees it only now that it may pass
	}
	if e != nil && d.Mark != packet.MarkSeen {
		e.connmark = d.Mark
	}
	g.forward(p, e)
}

func (g *gateway) query(t packet.Tuple) packet.Kernel {
	if g.entries[t.Key()] == nil {
		return packet.KernelAbsent
	}
	return packet.KernelPresent
}

func (g *gateway) carryOut(d *engine.Decision) {
	switch o := &d.Offload; o.Op {
	case packet.OffloadCreate:
		g.world.tracef("    create %v", o.Tuple)
		g.entries[o.Tuple.Key()] = &entry{original: o.Tuple, connmark: packet.MarkClear, diff: o.SeqDiff, last: g.world.clock.now}
	case packet.OffloadDelete:
		g.world.tracef("    delete %v", o.Tuple)
		delete(g.entries, o.Tuple.Key())
	}
	for _, s := range d.Segments() {
		g.world.tracef("    send %v %v seq %d ack %d", s.Tuple, s.Flags, s.Seq, s.Ack)
		p := packet.Packet{Tuple: s.Tuple, Seq: s.Seq, Ack: s.Ack, Flags: s.Flags, Window: s.Window, Options: s.Options}
		if e := g.entries[s.Key()]; s.Tracked && e != nil {
			e.track(&p)
			g.forward(p, e)
			continue
		}
		g.route(p)
	}
}

// forward sends a packet on, with its numbers translated.
func (g *gateway) forward(p packet.Packet, e *entry) {
	if e != nil && e.diff != 0 {
		if e.side(&p) == 0 {
			p.Ack = p.Ack.Sub(e.diff)
		} else {
			p.Seq = p.Seq.Add(e.diff)
		}
	}
	g.route(p)
}

func (g *gateway) route(p packet.Packet) {
	if p.DstPort == serverPort {
		g.toServer.send(p)
		return
	}
	g.toClient.send(p)
}

// tick is what the daemon does ten times a second.
func (g *gateway) tick() {
	now := g.world.clock.now
	var queries []packet.Tuple
	g.engine.Tick(now, func(d *engine.Decision) {
		if d.Offload.Op == packet.OffloadQuery {
			queries = append(queries, d.Offload.Tuple)
			return
		}
		g.carryOut(d)
	})
	for _, t := range queries {
		e, present := g.entries[t.Key()]
		var idle time.Duration
		if present {
			idle = now - e.last
		}
		var d engine.Decision
		g.engine.Idle(now, t, idle, present, &d)
		g.carryOut(&d)
	}
}
