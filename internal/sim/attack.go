package sim

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// noise sends a packet an attacker could make up: from an address of its own
// or of an honest client's, at one of the numbers it may know or guess.
func (w *world) noise() {
	r := w.rand
	src := netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + r.IntN(8))})
	t := packet.TupleFrom(netip.AddrPortFrom(src, uint16(40000+r.IntN(20))),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), serverPort))
	p := packet.Packet{Tuple: t, Seq: seqnum.Value(r.Uint32()), Ack: seqnum.Value(r.Uint32()), Window: uint16(r.Uint32())}
	p.Flags = []packet.Flags{
		packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK,
	}[r.IntN(6)]
	if p.Flags.Has(packet.SYN) {
		w.spoofed[t] = true
	}
	w.clients.out.send(p)
}

// trick begins a connection from an address of the attacker's own, and answers
// the SYN+ACK with packets no honest client sends, each of them at a number that
// means something.
func (w *world) trick() {
	r := w.rand
	t := packet.TupleFrom(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, trickster}), uint16(50000+r.IntN(200))),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 10}), serverPort))
	iss := seqnum.Value(r.Uint32())
	send := func(seq, ack seqnum.Value, f packet.Flags) {
		p := packet.Packet{Tuple: t, Seq: seq, Ack: ack, Flags: f, Window: 1000, Options: synOptions}
		if f == packet.ACK|packet.PSH {
			p.PayloadLen = uint32(1 + r.IntN(20))
		}
		w.clients.out.send(p)
	}
	answers := 0
	w.clients.tricks[t.Reverse()] = func(p *packet.Packet) {
		answers++
		if !p.IsSYNACK() || answers > 3 {
			return
		}
		for range 1 + r.IntN(6) {
			seq := iss + 1 + seqnum.Value(r.IntN(3)) - 1
			flags := []packet.Flags{
				packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.ACK | packet.PSH, packet.FIN | packet.ACK,
				packet.RST, packet.RST | packet.ACK,
			}[r.IntN(8)]
			send(seq, p.Seq+1, flags)
		}
	}
	send(iss, 0, packet.SYN)
}

// trickster is the last octet of the attacker's own address.
const trickster = 99

// inexact sends a RST in the name of a client, inside the server's window and
// not at its edge: the server challenges it, and holds on.
func (w *world) inexact() {
	if len(w.served) == 0 {
		return
	}
	s := w.served[w.rand.IntN(len(w.served))]
	seq := s.rcvNxt.Add(seqnum.Size(1 + w.rand.IntN(1000)))
	w.spoofed[s.tuple.Reverse()] = true
	w.clients.out.send(packet.Packet{Tuple: s.tuple.Reverse(), Seq: seq, Flags: packet.RST})
}

// every plans do at random times, on average one interval apart.
func (w *world) every(interval, until time.Duration, r *rand.Rand, do func()) {
	d := time.Duration(r.ExpFloat64() * float64(interval))
	if w.clock.now+d > until {
		return
	}
	w.clock.after(d, func() {
		do()
		w.every(interval, until, r, do)
	})
}
