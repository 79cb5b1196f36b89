package sim

import (
	"net/netip"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// serverPort is the first of the ports that the server listens on; each has a rule.
const (
	serverPort  = 80
	serverPorts = 2
)

func isServer(port uint16) bool { return port < serverPort+serverPorts }

var serverAddr = netip.AddrFrom4([4]byte{192, 0, 2, 10})

// name tells connections apart, whichever way a packet goes: the server's port, the
// last octet of the client's address, and its port.
type name uint32

func nameOf(t packet.Tuple) name {
	if isServer(t.SrcPort) {
		t = t.Reverse()
	}
	return name(t.DstPort)<<24 | name(t.Src[15])<<16 | name(t.SrcPort)
}

// clientTuple is the tuple of what a client sends to a port of the server's.
func clientTuple(octet byte, port int, to uint16) packet.Tuple {
	client := netip.AddrFrom4([4]byte{198, 51, 100, octet})
	return packet.TupleFrom(netip.AddrPortFrom(client, uint16(port)), netip.AddrPortFrom(serverAddr, to))
}

// anyPort is one of the server's ports.
func (w *world) anyPort() uint16 { return serverPort + uint16(w.rand.IntN(len(w.services))) }

// host is the server, or all clients in one.
type host struct {
	world   *world
	sockets map[name]*socket
	out     *link
	listens bool
	silent  bool
	stamp   uint32 // what its clock of timestamps begins with
}

// receive gives a packet to its socket, or to the listener.
func (h *host) receive(p *packet.Packet) {
	if h.silent {
		return
	}
	n := nameOf(p.Tuple)
	if t := h.world.tricks[n]; t != nil && !h.listens {
		h.world.answerTrick(t, p)
		return
	}
	s := h.sockets[n]
	if s != nil && s.yields(p) {
		delete(h.sockets, n)
		s = nil
	}
	switch {
	case s != nil:
		s.receive(p)
	case h.listens && !h.world.story.server.refuses && p.IsSYN():
		h.accept(p)
	case p.Flags.Has(packet.RST):
	case p.Flags.Has(packet.ACK):
		h.out.send(&packet.Packet{Tuple: p.Tuple.Reverse(), Seq: p.Ack, Flags: packet.RST})
	default:
		h.out.send(&packet.Packet{Tuple: p.Tuple.Reverse(), Ack: p.End(), Flags: packet.RST | packet.ACK})
	}
}

// accept answers a SYN.
func (h *host) accept(p *packet.Packet) {
	w := h.world
	if p.PayloadLen > 0 && !w.unruled {
		w.failf("%v: the server gets %d octets with a SYN", p.Tuple, p.PayloadLen)
	}
	if c := &w.story.server; c.garbage > 0 && w.rand.Float64() < c.garbage {
		h.babble(p)
		return
	}
	s := w.newSocket(h, p.Tuple.Reverse(), synReceived)
	s.own = w.serverOptions()
	s.agree(p)
	if s.wantSend = w.story.answers; w.story.asks > 0 {
		s.wantRecv = 1
	}
	s.lingers = w.rand.IntN(2) == 0
	h.sockets[nameOf(p.Tuple)] = s
	w.served = append(w.served, s)
	s.transmit()
}

// serverOptions are those of the next connection.
func (w *world) serverOptions() packet.Options {
	if w.story.server.fickle && w.rand.IntN(2) == 0 {
		return someOptions(w.rand)
	}
	return w.story.server.options
}

// babble answers a SYN with something that is no answer.
func (h *host) babble(p *packet.Packet) {
	r := h.world.rand
	q := packet.Packet{Tuple: p.Tuple.Reverse(), Seq: seqnum.Value(r.Uint32()), Ack: p.Seq + 1, Window: 1000}
	switch r.IntN(6) {
	case 0:
		q.Flags, q.Ack = packet.SYN|packet.ACK, seqnum.Value(r.Uint32())
	case 1:
		q.Flags, q.Ack = packet.SYN|packet.ACK, p.Seq
	case 2:
		q.Flags, q.Ack = packet.ACK, seqnum.Value(r.Uint32())
	case 3:
		q.Flags = packet.ACK
	case 4:
		q.Flags, q.Ack = packet.SYN, 0
	case 5:
		q.Flags, q.Ack = packet.RST|packet.ACK, seqnum.Value(r.Uint32())
	}
	h.out.send(&q)
}

// accepted is called when the server's socket becomes ESTABLISHED.
func (w *world) accepted(s *socket) {
	if w.story.aborts && w.rand.IntN(4) == 0 { // this one closes or aborts by its own clock
		abort := w.rand.IntN(2) == 0
		w.clock.after(time.Duration(w.rand.IntN(3000))*time.Millisecond, func() {
			if abort {
				s.abort()
			} else {
				s.close()
			}
		})
	}
	w.checkAccepted(s)
	w.checkOptions(s)
}

// reboot has the server forget all.
func (w *world) reboot() {
	if w.trace != nil {
		w.tracef("reboot")
	}
	for _, s := range w.served {
		if s.state != gone {
			s.end(wasReset)
		}
	}
	clear(w.server.sockets)
	w.story.server.options = someOptions(w.rand)
}

// connect opens a connection, if its tuple is not in use.
func (w *world) connect(t packet.Tuple) {
	n := nameOf(t)
	if old := w.clients.sockets[n]; old != nil && old.state != gone && old.state != timeWait {
		return
	}
	s := w.newSocket(w.clients, t, synSent)
	s.own = w.habits[t.Src[15]]
	s.wantSend = w.story.asks
	if w.story.answers > 0 {
		s.wantRecv = 1
	}
	s.eager, s.probes = oneIn(w.rand, 4), oneIn(w.rand, 4)
	s.fast = s.wantSend > 0 && oneIn(w.rand, 8)
	w.clients.sockets[n] = s
	w.honest = append(w.honest, s)
	s.holds = true
	w.clock.after(time.Duration(w.rand.ExpFloat64()*float64(w.story.holdFor)), func() {
		if oneIn(w.rand, 5) {
			s.abort()
		} else {
			s.close()
		}
	})
	s.transmit()
}

// reopen is how long after the others a connection may be begun again.
const reopen = 20 * time.Second

// again has a client that is done come back with the same port, at once or soon.
func (w *world) again(s *socket) {
	if w.connections == 0 || w.clock.now > w.story.openFor+reopen || w.rand.IntN(2) == 0 {
		return
	}
	w.connections--
	w.clock.after(time.Duration(w.rand.IntN(3)*w.rand.IntN(200))*time.Millisecond, func() { w.connect(s.tuple) })
}
