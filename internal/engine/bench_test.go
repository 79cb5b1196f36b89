package engine

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/wire"
)

// A step is one packet of a connection, with what has to come before it.
type step struct {
	name   string
	words  []string
	before func(*flow)        // of each connection; nil: nothing
	packet func(*flow) pieces // the one that is measured
	once   func(*flow)        // of the whole table; nil: nothing
	wants  packet.Reason      // what the decision is to be,
	sends  int                // and how many segments
}

// pieces are what a packet of the kernel's is made of.
type pieces struct {
	tuple   packet.Tuple
	segment packet.Segment
	conn    packet.Conn
}

func (f *flow) fromClient(s packet.Segment, conn packet.Conn) pieces {
	return pieces{f.client, s, conn}
}
func (f *flow) fromServer(s packet.Segment, conn packet.Conn) pieces {
	return pieces{f.client.Reverse(), s, conn}
}

func (f *flow) sendPieces(p pieces) packet.Segment { return f.send(p.tuple, p.segment, p.conn) }

func (f *flow) syn() pieces    { return f.fromClient(syn, packet.ConnNone) }
func (f *flow) synAck() pieces { return f.fromServer(synAck, packet.ConnNone) }

// third is the ACK of a kept handshake.
func (f *flow) third() pieces {
	return f.fromClient(packet.Segment{Seq: 101, Ack: 501, Flags: packet.ACK, Window: 502}, packet.ConnOpening)
}

// fin closes from the client's side, fin2 from the server's, and last is the ACK of that.
func (f *flow) fin() pieces {
	return f.fromClient(packet.Segment{Seq: 101, Ack: 501, Flags: packet.FIN | packet.ACK, Window: 502}, packet.ConnEstablished)
}

func (f *flow) fin2() pieces {
	return f.fromServer(packet.Segment{Seq: 501, Ack: 102, Flags: packet.FIN | packet.ACK, Window: 502}, packet.ConnEstablished)
}

func (f *flow) last() pieces {
	return f.fromClient(packet.Segment{Seq: 102, Ack: 502, Flags: packet.ACK, Window: 502}, packet.ConnEstablished)
}

// proof is the ACK that proves the client of the SYN that was sent last.
func (f *flow) proof() pieces {
	return f.fromClient(packet.Segment{Seq: 101, Ack: f.d.segments[0].Seq + 1, Flags: packet.ACK, Window: 502}, packet.ConnNew)
}

// forged acknowledges what nobody has said.
func (f *flow) forged() pieces {
	return f.fromClient(packet.Segment{Seq: 101, Ack: 7, Flags: packet.ACK, Window: 502}, packet.ConnNew)
}

// spoof has the next connection come from anywhere.
func (f *flow) spoof() {
	binary.BigEndian.PutUint32(f.client.Src[12:], uint32(f.client.SrcPort)*2654435761)
}

// do sends the packets one after the other.
func do(list ...func(*flow) pieces) func(*flow) {
	return func(f *flow) {
		for _, p := range list {
			f.sendPieces(p(f))
		}
	}
}

// steps are the packets that visit, one of each kind.
func steps() []step {
	limits := []string{"max_src_conn=1000000"}
	proxy, cookies := append(limits, "state=synproxy"), append(limits, "state=synproxy", "cookies")
	one := []string{"max_src_conn=1"}
	learn := (*flow).proxied
	spoofed := func(f *flow) pieces { f.spoof(); return f.syn() }
	elsewhere := func(f *flow) pieces { f.client.DstPort = 81; return f.syn() }
	return []step{
		{name: "keep/SYN", words: limits, packet: (*flow).syn},
		{name: "keep/SYN+ACK", words: limits, before: do((*flow).syn), packet: (*flow).synAck},
		{name: "keep/ACK", words: limits, before: do((*flow).syn, (*flow).synAck), packet: (*flow).third},
		{name: "keep/FIN", words: limits, before: (*flow).open, packet: (*flow).fin},
		{name: "keep/ACK of FIN", words: limits, before: func(f *flow) { f.open(); do((*flow).fin, (*flow).fin2)(f) }, packet: (*flow).last},
		{name: "proxy/SYN", words: proxy, once: learn, packet: (*flow).syn, wants: packet.ReasonSynproxy, sends: 1},
		{name: "proxy/SYN, spoofed", words: proxy, once: learn, packet: spoofed, wants: packet.ReasonSynproxy, sends: 1},
		{name: "proxy/SYN, table full", words: append(proxy, "states=2000"), once: (*flow).fill, packet: spoofed, wants: packet.ReasonSynproxy, sends: 1},
		{name: "proxy/ACK", words: proxy, once: learn, before: do((*flow).syn), packet: (*flow).proof, wants: packet.ReasonSynproxy, sends: 1},
		{name: "proxy/SYN+ACK", words: proxy, once: learn, before: do((*flow).syn, (*flow).proof), packet: (*flow).synAck, wants: packet.ReasonSynproxy, sends: 2},
		{name: "cookie/SYN", words: cookies, once: learn, packet: (*flow).syn, wants: packet.ReasonSynproxy, sends: 1},
		{name: "cookie/SYN, spoofed", words: cookies, once: learn, packet: spoofed, wants: packet.ReasonSynproxy, sends: 1},
		{name: "cookie/ACK", words: cookies, once: learn, before: do((*flow).syn), packet: (*flow).proof, wants: packet.ReasonSynproxy, sends: 1},
		{name: "cookie/ACK, forged", words: cookies, once: learn, packet: (*flow).forged, wants: packet.ReasonStateMismatch, sends: 1},
		{name: "limit/SYN", words: one, once: (*flow).openAnother, packet: (*flow).syn, wants: packet.ReasonMaxSrcConn, sends: 1},
		{name: "limit/ACK", words: one, before: do((*flow).syn, (*flow).synAck), packet: (*flow).third, wants: packet.ReasonMaxSrcConn, sends: 2},
		{name: "block/SYN", words: []string{"action=block"}, packet: (*flow).syn, wants: packet.ReasonBlock, sends: 1},
		{name: "none/SYN", packet: elsewhere},
	}
}

// openAnother has the source hold a connection.
func (f *flow) openAnother() {
	f.client.SrcPort--
	f.open()
	f.client.SrcPort++
}

// fill fills the table with what a flood leaves.
func (f *flow) fill() {
	f.proxied()
	for i := f.client.SrcPort; f.engine.Len() < f.engine.table.Limit(); i++ {
		f.client.SrcPort = i
		f.spoof()
		f.sendPieces(f.syn())
	}
	f.client.Src = packet.AddrFrom(scenarioClient)
}

// empty removes all states, so that a table does not grow from one round to the next.
func (f *flow) empty() {
	e := f.engine
	for i := range e.table.Shards() {
		sh := e.table.LockShard(i)
		sh.Each(func(s *conntrack.State) { e.released = append(e.released, e.forget(sh, s)) })
		sh.Unlock()
	}
	for _, s := range e.released {
		e.table.Drop(s, f.now)
	}
	e.released = e.released[:0]
	f.now += time.Minute // nothing waits any more
	e.Tick(f.now, func(*Decision) {})
}

// round is how many connections are made ready at a time, so that a packet of each is
// measured; of one alone there would be a single packet.
const round = 1000

// arrival is a packet as it comes from the kernel.
type arrival struct {
	octets []byte
	conn   packet.Conn
}

// newStep is a flow for the packets of a step.
func newStep(tb testing.TB, s *step) *flow {
	return newFlow(scenarioConfig(tb, append([]string{"states=1000000", "src_nodes=100000"}, s.words...)))
}

// ready has the connections of a round come to the step.
func (f *flow) ready(s *step, list []arrival) {
	begin := f.client
	defer func() { f.client = begin }()
	f.empty()
	if s.once != nil {
		s.once(f)
	}
	for i := range list {
		f.client = begin
		f.client.SrcPort += uint16(i)
		if s.before != nil {
			s.before(f)
		}
		p := s.packet(f)
		p.segment.Tuple = p.tuple
		list[i] = arrival{wire.Append(list[i].octets[:0], &p.segment), p.conn}
	}
}

// decode reads a packet.
func (f *flow) decode(a *arrival) {
	if r := f.decoder.Decode(a.octets, len(a.octets), &f.p); r != packet.ReasonMatch {
		panic(r)
	}
	f.come(a.conn)
}

// check holds the last decision against what the step wants.
func (s *step) check(tb testing.TB, d *Decision) {
	tb.Helper()
	if d.Reason != s.wants || len(d.Segments()) != s.sends {
		tb.Fatalf("%s: %v, %d segments, want %v, %d", s.name, d.Reason, len(d.Segments()), s.wants, s.sends)
	}
}

// From the octets of a packet to those of the answers nothing is allocated, whatever the
// packet is.
func TestNoAllocationsAtAnyStep(t *testing.T) {
	for _, s := range steps() {
		f := newStep(t, &s)
		list := make([]arrival, round)
		for range 3 { // the first rounds make the room that the last uses again
			f.ready(&s, list)
			for i := range list {
				f.arrive(&list[i])
			}
		}
		f.ready(&s, list)
		i := 0
		if n := testing.AllocsPerRun(round-1, func() { f.arrive(&list[i]); i++ }); n != 0 {
			t.Errorf("%s: %v allocations", s.name, n)
		}
		s.check(t, &f.d)
	}
}

// arrive decodes a packet, decides about it and encodes what is to be sent.
func (f *flow) arrive(a *arrival) {
	f.decode(a)
	f.engine.Handle(f.now, &f.p, &f.d)
	segments := f.d.Segments()
	for i := range segments {
		f.buffer = wire.Append(f.buffer[:0], &segments[i])
	}
}

// The engine alone, for each kind of packet.
func BenchmarkStep(b *testing.B) {
	for _, s := range steps() {
		b.Run(s.name, func(b *testing.B) { s.measure(b) })
	}
}

// measure has packets handled, a round at a time, and leaves out how they come about.
func (s *step) measure(b *testing.B) {
	f := newStep(b, s)
	list, packets := make([]arrival, round), make([]packet.Packet, round)
	b.ReportAllocs()
	for n := 0; n < b.N; n += round {
		b.StopTimer()
		f.ready(s, list)
		for i := range list {
			f.decode(&list[i])
			packets[i] = f.p
		}
		b.StartTimer()
		for i := range packets[:min(round, b.N-n)] {
			f.engine.Handle(f.now, &packets[i], &f.d)
		}
	}
	b.StopTimer()
	if b.N > 1 {
		s.check(b, &f.d)
	}
}

// established is a flow whose engine has n connections of as many clients.
func established(tb testing.TB, n int) *flow {
	f := newFlow(scenarioConfig(tb, []string{"states=2000000", "src_nodes=2000000", "max_src_conn=10"}))
	for i := range n {
		binary.BigEndian.PutUint32(f.client.Src[12:], uint32(i))
		f.open()
	}
	if f.engine.Len() != n {
		tb.Fatalf("%d states, want %d", f.engine.Len(), n)
	}
	return f
}

// What the clock costs a daemon without packets: it calls Tick ten times a second. Also
// the longest that a call takes, more than which no packet waits for it.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{1000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			f, longest := established(b, n), time.Duration(0)
			b.ResetTimer()
			for range b.N {
				began := time.Now()
				f.engine.Tick(f.now, func(*Decision) { b.Fatal("there is something to do") })
				longest = max(longest, time.Since(began))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)*10/1e7, "%-of-a-core")
			b.ReportMetric(float64(longest)/1e6, "ms-longest")
		})
	}
}
