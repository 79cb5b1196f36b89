package sim

import (
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// trickster is the last octet of the attacker's own address.
const trickster = 99

// hostility begins the attacks of the story.
func (w *world) hostility() {
	a := &w.story.attacks
	w.every(a.noise, w.noise)
	w.every(a.inexact, w.inexact)
	w.every(a.trick, w.trick)
	w.every(a.cheat, w.cheat)
}

// every plans do at random times, on average one interval apart, while clients begin
// connections. Without an interval it never happens.
func (w *world) every(interval time.Duration, do func()) {
	if interval == 0 {
		return
	}
	d := time.Duration(w.rand.ExpFloat64() * float64(interval))
	if w.clock.now+d > w.story.openFor {
		return
	}
	w.clock.after(d, func() {
		do()
		w.every(interval, do)
	})
}

// anyFlags are what an attacker sends, where it may make things up.
var anyFlags = []packet.Flags{
	packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK,
}

// noise sends a few packets an attacker could make up: from an address of its own or
// of an honest client's, or of the server, at one of the numbers it may guess.
func (w *world) noise() {
	for range 1 + w.rand.IntN(4) {
		w.noisePacket()
	}
}

func (w *world) noisePacket() {
	r := w.rand
	t := clientTuple(byte(1+r.IntN(8)), firstPort+r.IntN(w.story.ports), w.anyPort())
	p := packet.Packet{Tuple: t, Seq: seqnum.Value(r.Uint32()), Ack: seqnum.Value(r.Uint32()), Window: uint16(r.Uint32())}
	p.Flags = one(r, anyFlags)
	if p.Flags.Has(packet.SYN) || w.story.gateway.flushes {
		w.spoofed[nameOf(t)] = true // a kernel without its entry takes any number for one inside the window
	}
	if oneIn(r, 8) { // in the server's name
		p.Tuple = p.Tuple.Reverse()
	}
	w.clients.out.send(&p)
}

// cheat is a client that ends its connection in its server's name, to be counted no
// more while the server still holds it.
func (w *world) cheat() {
	if len(w.honest) == 0 {
		return
	}
	s := one(w.rand, w.honest)
	if s.state != established {
		return
	}
	w.spoofed[nameOf(s.tuple)] = true
	p := packet.Packet{Tuple: s.tuple.Reverse(), Seq: s.rcvNxt, Ack: s.nextSeq(), Window: 1000}
	p.Flags = one(w.rand, []packet.Flags{packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK})
	w.clients.out.send(&p)
}

// trickery is a connection of the attacker's that is being opened.
type trickery struct {
	tuple   packet.Tuple
	iss     seqnum.Value
	answers int
}

// trick begins a connection from an address of the attacker's own.
func (w *world) trick() {
	r := w.rand
	t := &trickery{tuple: clientTuple(trickster, firstPort+r.IntN(w.story.ports), w.anyPort()), iss: seqnum.Value(r.Uint32())}
	w.tricks[nameOf(t.tuple)] = t
	w.sendTrick(t, t.iss, 0, packet.SYN)
}

// answerTrick answers the SYN+ACK with packets no honest client sends, each of them
// at a number that means something.
func (w *world) answerTrick(t *trickery, p *packet.Packet) {
	t.answers++
	if !p.IsSYNACK() || t.answers > 3 {
		return
	}
	for range 1 + w.rand.IntN(6) {
		seq := t.iss + 1 + seqnum.Value(w.rand.IntN(3)) - 1
		w.sendTrick(t, seq, p.Seq+1, one(w.rand, trickFlags))
	}
}

var trickFlags = []packet.Flags{
	packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.ACK | packet.PSH, packet.FIN | packet.ACK,
	packet.RST, packet.RST | packet.ACK,
}

func (w *world) sendTrick(t *trickery, seq, ack seqnum.Value, f packet.Flags) {
	p := packet.Packet{Tuple: t.tuple, Seq: seq, Ack: ack, Flags: f, Window: 1000}
	p.Options = packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true}
	if f == packet.ACK|packet.PSH {
		p.PayloadLen = uint32(1 + w.rand.IntN(20))
	}
	w.clients.out.send(&p)
}

// inexact sends a RST in the name of a client, inside the server's window and
// not at its edge: the server challenges it, and holds on.
func (w *world) inexact() {
	if len(w.served) == 0 {
		return
	}
	s := w.served[w.rand.IntN(len(w.served))]
	seq := s.rcvNxt.Add(seqnum.Size(1 + w.rand.IntN(1000)))
	w.spoofed[nameOf(s.tuple)] = true
	w.clients.out.send(&packet.Packet{Tuple: s.tuple.Reverse(), Seq: seq, Flags: packet.RST})
}
