package sim

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

const serverPort = 80

// timeouts are pf's, shortened so that a run sees all of them end.
var timeouts = conntrack.Timeouts{
	conntrack.TCPFirst: 20 * time.Second, conntrack.TCPOpening: 20 * time.Second, conntrack.TCPEstablished: 100 * time.Second,
	conntrack.TCPClosing: 60 * time.Second, conntrack.TCPFinWait: 30 * time.Second, conntrack.TCPClosed: 20 * time.Second,
}

const (
	openFor  = 20 * time.Second  // clients begin connections
	runFor   = 150 * time.Second // and have to be done with them
	drainFor = 400 * time.Second // then nothing may be left
)

// Options describe a run; Seed chooses all that they leave open.
type Options struct {
	Seed  uint64
	Trace func(line string) // what the gateway sees and does; nil: nobody listens
}

// world is one run.
type world struct {
	clock   *clock
	rand    *rand.Rand
	trace   func(string)
	policy  rules.State
	cookies bool
	limit   int
	gateway *gateway
	server  *host
	clients *host
	honest  []*socket
	served  []*socket // the server's sockets, in the order of their SYNs
	// reset holds connections whose client's RST has passed the gateway: the
	// server may hold them until it arrives.
	reset map[packet.Tuple]bool
	// spoofed are tuples in which an attacker who knows them has sent a SYN, or a
	// RST inside the window: that may end a handshake, or a connection.
	spoofed  map[packet.Tuple]bool
	failures []string
}

// host has sockets by the tuple of what they receive.
type host struct {
	world   *world
	sockets map[packet.Tuple]*socket
	tricks  map[packet.Tuple]func(*packet.Packet) // in place of a socket
	out     *link
	listens bool
	refuses bool // as if nobody listened
	silent  bool // as if it were down
	scale   packet.Options
}

func newWorld(o Options) *world {
	r := rand.New(rand.NewPCG(o.Seed, 0))
	w := &world{clock: &clock{}, rand: r, trace: o.Trace, spoofed: make(map[packet.Tuple]bool)}
	w.policy = []rules.State{rules.Keep, rules.Synproxy, rules.Synproxy}[r.IntN(3)]
	w.cookies = r.IntN(3) == 0
	w.limit = 1 + r.IntN(6)
	w.gateway = &gateway{world: w, engine: w.newEngine(), entries: make(map[packet.Key]*entry)}
	w.server = &host{world: w, sockets: make(map[packet.Tuple]*socket), listens: true}
	w.clients = &host{world: w, sockets: make(map[packet.Tuple]*socket), tricks: make(map[packet.Tuple]func(*packet.Packet))}
	w.server.refuses, w.server.silent = r.IntN(12) == 0, r.IntN(12) == 0
	w.wire()
	return w
}

func (w *world) newEngine() *engine.Engine {
	rule := rules.Rule{
		Number: 1, Name: "web", State: w.policy, MaxSrcConn: uint32(w.limit), SourcePrefixV4: 32, SourcePrefixV6: 64,
		Ports: []rules.PortRange{{First: serverPort, Last: serverPort}},
	}
	return engine.New(engine.Config{
		Ruleset: rules.New([]rules.Rule{rule}), Timeouts: []conntrack.Timeouts{timeouts},
		States: 10000, SrcNodes: 1000, Cookies: w.cookieMode(), Start: 0.25, End: 0.12,
		NewerKey: cookie.Key{w.rand.Uint64(), 1}, OlderKey: cookie.Key{w.rand.Uint64(), 2}, HashSeed: w.rand.Uint64(),
	})
}

func (w *world) cookieMode() synproxy.CookieMode {
	if w.cookies {
		return synproxy.CookiesAlways
	}
	return synproxy.CookiesNever
}

// wire joins clients, gateway and server. One run in three has a clean network.
func (w *world) wire() {
	quality := link{clock: w.clock, rand: w.rand}
	if w.rand.IntN(3) > 0 {
		quality.loss, quality.duplicate = w.rand.Float64()*0.15, w.rand.Float64()*0.1
		quality.jitter = time.Duration(w.rand.IntN(40)) * time.Millisecond
	}
	join := func(deliver func(packet.Packet)) *link {
		l := quality
		l.delay, l.deliver = time.Duration(1+w.rand.IntN(50))*time.Millisecond, deliver
		return &l
	}
	toGateway := func(name string, dev uint32) func(packet.Packet) {
		return func(p packet.Packet) {
			p.InName, p.InDev = name, dev
			w.gateway.receive(p)
		}
	}
	w.gateway.toClient, w.gateway.toServer = join(w.clients.receive), join(w.server.receive)
	w.clients.out, w.server.out = join(toGateway("eth0", 1)), join(toGateway("eth1", 2))
}

// receive gives a packet to its socket, or to the listener.
func (h *host) receive(p packet.Packet) {
	if trick := h.tricks[p.Tuple]; trick != nil {
		trick(&p)
		return
	}
	if h.silent {
		return
	}
	s := h.sockets[p.Tuple]
	if s != nil && s.state == gone {
		delete(h.sockets, p.Tuple)
		s = nil
	}
	switch {
	case s != nil:
		s.receive(&p)
	case h.listens && !h.refuses && p.IsSYN():
		h.accept(&p)
	case p.Flags.Has(packet.RST):
	case p.Flags.Has(packet.ACK):
		h.out.send(packet.Packet{Tuple: p.Tuple.Reverse(), Seq: p.Ack, Flags: packet.RST})
	default:
		h.out.send(packet.Packet{Tuple: p.Tuple.Reverse(), Ack: p.End(), Flags: packet.RST | packet.ACK})
	}
}

// accept answers a SYN; what the server will do is chosen now.
func (h *host) accept(p *packet.Packet) {
	w := h.world
	s := &socket{
		world: w, out: h.out, tuple: p.Tuple.Reverse(), state: synReceived, iss: seqnum.Value(w.rand.Uint32()),
		rcvNxt: p.Seq + 1, wantRecv: 1, wantSend: w.rand.IntN(2) * 100, window: uint32(p.Window),
	}
	s.sndUna = s.iss
	s.answer = synOptions
	s.answer.HasWScale, s.answer.SACKPermitted = p.Options.HasWScale, p.Options.SACKPermitted
	h.sockets[p.Tuple] = s
	w.served = append(w.served, s)
	s.transmit()
}

// accepted is called when the server's socket becomes ESTABLISHED.
func (w *world) accepted(s *socket) {
	s.sndUna = s.iss + 1
	if w.rand.IntN(4) == 0 { // this one closes or aborts by its own clock
		abort := w.rand.IntN(2) == 0
		w.clock.after(time.Duration(w.rand.IntN(5000))*time.Millisecond, func() {
			if abort {
				s.abort()
			} else {
				s.closing = true
				s.next()
			}
		})
	}
	w.checkLimit(s.tuple.Dst)
}

// checkLimit counts what the server holds of one source.
func (w *world) checkLimit(source packet.Addr) {
	var held []uint16
	for _, s := range w.served {
		if s.tuple.Dst == source && s.state == established && !s.finSent {
			held = append(held, s.tuple.DstPort)
		}
	}
	if len(held) > w.limit {
		w.failf("the server holds %d connections of %v, more than %d: ports %d, of which %d count",
			len(held), source.Netip(), w.limit, held, w.counting(source))
	}
}

// counting are the client's ports of the connections of a source that count.
func (w *world) counting(source packet.Addr) (ports []uint16) {
	_ = w.gateway.engine.States(w.clock.now, func(l *engine.Listed) error {
		if l.Counting && l.Tuple.Src == source {
			ports = append(ports, l.Tuple.SrcPort)
		}
		return nil
	})
	return ports
}

func (w *world) tracef(format string, args ...any) {
	if w.trace != nil {
		w.trace(fmt.Sprintf("%v ", w.clock.now) + fmt.Sprintf(format, args...))
	}
}

func (w *world) failf(format string, args ...any) {
	w.failures = append(w.failures, fmt.Sprintf("at %v: ", w.clock.now)+fmt.Sprintf(format, args...))
}

// connect opens a connection from one of a few ports, so that tuples are re-used.
func (w *world) connect(client byte) {
	t := packet.TupleFrom(
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, client}), uint16(40000+w.rand.IntN(20))),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), serverPort))
	if old := w.clients.sockets[t.Reverse()]; old != nil && old.state != gone {
		return
	}
	s := &socket{
		world: w, out: w.clients.out, tuple: t, state: synSent, iss: seqnum.Value(w.rand.Uint32()),
		wantSend: 1 + w.rand.IntN(100), wantRecv: w.rand.IntN(2),
	}
	s.sndUna = s.iss
	w.clients.sockets[t.Reverse()] = s
	w.honest = append(w.honest, s)
	s.holdFor(time.Duration(w.rand.IntN(4000)) * time.Millisecond)
	s.transmit()
}

// holdFor keeps the connection open for a while, and ends it in one of the ways
// a program can.
func (s *socket) holdFor(d time.Duration) {
	s.holds = true
	abort := s.world.rand.IntN(5) == 0
	s.world.clock.after(d, func() {
		s.holds = false
		if abort {
			s.abort()
		} else {
			s.next()
		}
	})
}
