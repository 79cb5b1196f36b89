package daemon

import (
	"net/netip"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
	"nfqfw/internal/route"
	"nfqfw/rules"
)

// peers are the states of the client and of the server in an entry of the kernel's, by
// whether its server has sent a FIN.
var peers = map[offload.TCPState][2]struct{ src, dst conntrack.PeerState }{
	offload.Established: {{conntrack.Established, conntrack.Established}, {conntrack.Established, conntrack.Closing}},
	offload.FinWait:     {{conntrack.Closing, conntrack.Established}, {conntrack.Established, conntrack.Closing}},
	offload.CloseWait:   {{conntrack.FinWait2, conntrack.Established}, {conntrack.Established, conntrack.FinWait2}},
	offload.LastAck:     {{conntrack.FinWait2, conntrack.Closing}, {conntrack.FinWait2, conntrack.Closing}},
	offload.TimeWait:    {{conntrack.FinWait2, conntrack.FinWait2}, {conntrack.FinWait2, conntrack.FinWait2}},
	offload.Close:       {{conntrack.Established, conntrack.Established}, {conntrack.TimeWait, conntrack.TimeWait}},
}

// adopter takes over the connections that the kernel knows.
type adopter struct {
	*daemon
	table   *offload.Table
	routes  *route.Table
	doubts  bool           // the kernel may have translated numbers and no timestamps
	closed  bool           // while there was no daemon, who was not admitted was kept from the server
	doubted []packet.Tuple // whose timestamps may have passed untranslated
	opening []halfOpen     // come last: what is established is not to lack the room
	adopted int
}

// halfOpen is a connection whose handshake is under way.
type halfOpen struct {
	of     engine.Adoption
	marked bool // the hooks know, and queue what comes of it
}

// adopt takes over the connections in the scope of the rules that began before.
func (d *daemon) adopt() error {
	table, err := offload.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	a := &adopter{
		daemon: d, table: table, routes: route.New(), closed: d.hooks.WereClosed(),
		doubts: d.hooks.Timestamps() && !d.hooks.Translated(),
	}
	if err := table.Dump(0, a.take); err != nil {
		return err
	}
	a.doubt()
	for i := range a.opening {
		a.takeOpening(&a.opening[i])
	}
	if a.adopted > 0 {
		d.log.Info("connections taken over", "connections", a.adopted)
	}
	return nil
}

// take adopts the connection of an entry. Where conntrack has picked one up in the
// middle, its original direction may be the server's.
func (a *adopter) take(t packet.Tuple, e *offload.Entry) {
	isReverse := !a.serves(t.Destination())
	if isReverse {
		if t = t.Reverse(); !a.serves(t.Destination()) {
			return
		}
	}
	of, ok := adoption(t, e, a.closed)
	if !ok || isReverse && (of.Proxied || of.Opening) {
		return
	}
	client, err := a.routes.To(t.Src.Netip())
	if err != nil {
		return
	}
	server, err := a.routes.To(t.Dst.Netip())
	if err != nil {
		return
	}
	of.InDev, of.ReplyDev = client.Device, server.Device
	of.InName = a.interfaces.link(client.Device).name
	if a.doubts && of.TSDiff != 0 {
		a.doubted = append(a.doubted, t)
	}
	if of.Opening && len(a.opening) < a.config.Load().Limits.States {
		a.opening = append(a.opening, halfOpen{of, ours(e) == packet.MarkOpening})
	} else if !of.Opening {
		a.put(&of)
	}
}

func (a *adopter) put(of *engine.Adoption) (put bool) {
	if put = a.engine.Adopt(a.now(), of); put {
		a.adopted++
	}
	return put
}

// doubt has the next packets of connections queued whose timestamps are in doubt.
func (a *adopter) doubt() {
	for _, t := range a.doubted {
		if m, ok := a.engine.Doubt(t); ok {
			_ = a.table.SetMark(t, m) // if it is over, nothing is in doubt
		}
	}
}

// takeOpening adopts a handshake. One that began with nobody there has no mark: it gets
// one, for its last ACK to be queued, and has no state if that has come by meanwhile.
func (a *adopter) takeOpening(h *halfOpen) {
	t := h.of.Tuple
	if h.marked {
		a.put(&h.of)
		return
	}
	if a.table.SetMark(t, packet.MarkOpening) != nil {
		return // it is over
	}
	if present, e, err := a.table.Query(t); err == nil && present.Present() {
		if now, ok := adoption(t, &e, false); ok {
			h.of.Opening, h.of.Src, h.of.Dst = now.Opening, now.Src, now.Dst
		}
	}
	if put := a.put(&h.of); !put || !h.of.Opening {
		_ = a.table.SetMark(t, 0) // no rule's, or admitted
	}
}

// catchUp asks the kernel what has closed, after something was not seen.
func (d *daemon) catchUp() error {
	table, err := offload.Open()
	if err != nil {
		return err
	}
	defer table.Close()
	since := d.now()
	return table.Dump(packet.MarkClear, func(t packet.Tuple, e *offload.Entry) {
		if of, ok := adoption(t, e, false); ok {
			d.engine.CatchUp(d.now(), since, &of)
		}
	})
}

// serves says whether a rule is about a server, as far as prefixes and ports tell.
func (a *adopter) serves(server netip.AddrPort) bool {
	list := a.config.Load().Rules
	for i := range list {
		if list[i].Action == rules.Pass && list[i].Serves(server) {
			return true
		}
	}
	return false
}

// ours are our bits of an entry's connmark.
func ours(e *offload.Entry) packet.Mark { return e.Mark & packet.MarkMask }

// adoption is what an entry tells of its connection. It is not ok if nobody was admitted,
// nor is being: the connection is nobody's, and its next packet is the first that is seen.
func adoption(t packet.Tuple, e *offload.Entry, closed bool) (a engine.Adoption, ok bool) {
	serverClosed := 0
	if e.Mark&packet.MarkServerClosed != 0 {
		serverClosed = 1
	}
	p, established := peers[e.State]
	opening := ours(e) == packet.MarkOpening && (closed || !established)
	opening = opening || ours(e) == 0 && (e.State == offload.SynSent || e.State == offload.SynRecv)
	if !opening && !established || opening && e.State >= offload.TimeWait {
		return a, false
	}
	idle, err := offload.Idle(*e)
	if err != nil {
		idle = 0
	}
	dst := p[serverClosed].dst
	if m := ours(e); serverClosed == 0 && m != 0 && m != packet.MarkOpening {
		// For the kernel a FIN that the client has sent again is the server's, but our
		// mark knows whose each was.
		dst = conntrack.Established
	}
	return engine.Adoption{
		Tuple: t, Src: p[serverClosed].src, Dst: dst, Doubtful: dst == conntrack.Established && doubtful(e),
		Opening: opening,
		Proxied: e.SeqDiff != 0, SeqDiff: e.SeqDiff, ServerISN: e.ServerISN, TSDiff: e.TSDiff,
		SrcWScale: e.SrcWScale, DstWScale: e.DstWScale, HasWScale: e.HasWScale, SACKPermitted: e.SACKPermitted,
		Age: max(e.Age, idle), Idle: idle,
	}, true
}

// doubtful says whether the server may have let go of a connection that it has not closed
// as far as is known: it was sent a RST, or the kernel has seen two FINs, or the
// daemon before was about to end the connection, or to ask.
func doubtful(e *offload.Entry) bool {
	asked := e.State == offload.Established && e.Mark&packet.MarkSteer == packet.MarkTrack
	return asked || e.State == offload.LastAck || e.State == offload.TimeWait || e.State == offload.Close
}
