package engine

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/wire"
)

// A flow is a connection's packets as they come from the kernel, with the
// engine's answers in between.
type flow struct {
	engine  *Engine
	decoder *wire.Decoder
	now     time.Duration
	p       packet.Packet
	d       Decision
	buffer  []byte
	client  packet.Tuple
}

func newFlow(c Config) *flow {
	return &flow{
		engine: New(c, scenarioSeeds), decoder: wire.NewDecoder(), buffer: make([]byte, 0, 256),
		client: packet.TupleFrom(netip.AddrPortFrom(scenarioClient, 40000), scenarioServer),
	}
}

// send takes a segment through encoding, decoding and decision, and gives back
// the first segment the engine sends.
func (f *flow) send(t packet.Tuple, s packet.Segment, conn packet.Conn) packet.Segment {
	s.Tuple = t
	f.buffer = wire.Append(f.buffer[:0], &s)
	if r := f.decoder.Decode(f.buffer, len(f.buffer), &f.p); r != packet.ReasonMatch {
		panic(r)
	}
	f.come(conn)
	f.engine.Handle(f.now, &f.p, &f.d)
	return f.d.segments[0]
}

// come adds what the kernel says of a packet. What closes a connection comes as a copy.
func (f *flow) come(conn packet.Conn) {
	f.p.Conn, f.p.Kernel = conn, packet.KernelReset
	f.p.Copied = conn == packet.ConnEstablished && !f.p.Flags.Has(packet.RST)
}

var (
	synOptions = packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true, TSVal: 1}
	syn        = packet.Segment{Seq: 100, Flags: packet.SYN, Window: 64240, Options: synOptions}
	synAck     = packet.Segment{Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK, Window: 65160, Options: synOptions}
)

// kept is a whole kept connection, closed by the client.
func (f *flow) kept() {
	f.open()
	f.close(501, 0)
}

// open is the handshake of a kept connection.
func (f *flow) open() {
	do((*flow).syn, (*flow).synAck, (*flow).third)(f)
}

// hold fills the limit of its source.
func (f *flow) hold() {
	for range 10 {
		f.client.SrcPort++
		f.open()
	}
	f.client.SrcPort++
}

// later is so long after that a rate admits another.
func (f *flow) later() { f.now += time.Millisecond }

// proxied is a whole proxied connection, closed by the client.
func (f *flow) proxied() {
	c, s := f.client, f.client.Reverse()
	p := f.send(c, syn, packet.ConnNone).Seq
	f.send(c, packet.Segment{Seq: 101, Ack: p + 1, Flags: packet.ACK, Window: 502}, packet.ConnNew)
	f.send(s, synAck, packet.ConnNone)
	if f.d.Offload.Op != packet.OffloadCreate {
		f.send(s, synAck, packet.ConnNone) // asked a second time: the server was new
	}
	f.close(p+1, p-500)
}

func (f *flow) close(ack, diff seqnum.Value) {
	c, s := f.client, f.client.Reverse()
	f.send(c, packet.Segment{Seq: 101, Ack: ack, Flags: packet.FIN | packet.ACK, Window: 502}, packet.ConnEstablished)
	f.send(s, packet.Segment{Seq: ack - diff, Ack: 102, Flags: packet.FIN | packet.ACK, Window: 502}, packet.ConnEstablished)
	f.send(c, packet.Segment{Seq: 102, Ack: ack + 1, Flags: packet.ACK, Window: 502}, packet.ConnEstablished)
}

// paths are the ways of a packet through the engine that a flood or a busy
// server takes often.
func paths(t testing.TB) map[string]func() {
	config := func(words ...string) Config { return scenarioConfig(t, append(words, "max_src_conn=10")) }
	limited := func(words ...string) *flow {
		return newFlow(scenarioConfig(t, append(words, "max=11", "max_src_conn=10", "max_src_states=11", "max_src_nodes=10",
			"max_src_conn_rate=40/20ms", "overload=abusers", "adaptive.start=100", "adaptive.end=200")))
	}
	kept, proxied := newFlow(config()), newFlow(config("state=synproxy"))
	keptLimited, proxiedLimited, global := limited(), limited("state=synproxy"), limited("source_track=global")
	over, counts := limited(), limited("enforce=false")
	over.hold()
	counts.hold()
	cookies, stray := newFlow(config("state=synproxy", "cookies")), newFlow(config())
	full := newFlow(config("states=0"))
	return map[string]func(){
		"kept":    kept.kept,
		"proxied": proxied.proxied,
		"cookies": cookies.proxied,
		"cookie":  func() { cookies.send(cookies.client, syn, packet.ConnNone) },
		"stray":   func() { stray.send(stray.client, packet.Segment{Seq: 9, Ack: 9, Flags: packet.ACK}, packet.ConnNew) },
		"full":    func() { full.send(full.client, syn, packet.ConnNone) },

		// with every limit there is
		"kept, limited":     func() { keptLimited.later(); keptLimited.kept() },
		"proxied, limited":  func() { proxiedLimited.later(); proxiedLimited.proxied() },
		"global":            func() { global.later(); global.kept() },
		"over a limit":      func() { over.later(); over.kept() },
		"over, and counted": func() { counts.later(); counts.kept() },
	}
}

// From the octets to the decision nothing is allocated, however a packet goes.
func TestNoAllocations(t *testing.T) {
	for name, path := range paths(t) {
		for range 100 {
			path()
		}
		if n := testing.AllocsPerRun(1000, path); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// The packets of each path, encoding and decoding included.
func BenchmarkPaths(b *testing.B) {
	for name, path := range paths(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				path()
			}
		})
	}
}

// The engine alone, a packet at a time.
func BenchmarkHandle(b *testing.B) {
	for _, words := range [][]string{{}, {"state=synproxy"}, {"state=synproxy", "cookies"}} {
		name := "keep"
		if len(words) > 0 {
			name = words[len(words)-1]
		}
		b.Run("SYN/"+name, func(b *testing.B) {
			f := newFlow(scenarioConfig(b, append(words, "max_src_conn=10", "states=1000000")))
			f.send(f.client, syn, packet.ConnNone)
			p := f.p
			for i := 0; b.Loop(); i++ {
				p.SrcPort, p.Src[15] = uint16(i), byte(i>>16)
				f.engine.Handle(0, &p, &f.d)
			}
		})
	}
}
