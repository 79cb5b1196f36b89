package engine

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

// FuzzEngine feeds the engine any sequence of packets, from any side, with any
// numbers but mostly such that mean something, and looks after each that what is
// counted is what there is, and at the end that nothing is left.
func FuzzEngine(f *testing.F) {
	f.Add([]byte("\x00\x00SYN\x01\x10\x21\x32 and more, to begin with"))
	f.Add([]byte{0x12, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9})
	f.Add([]byte{0x2f, 1, 0, 0, 0, 1, 16, 1, 1, 2, 17, 0, 1, 4, 0, 0, 1, 255, 255, 3, 2, 1})
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 4096 {
			return
		}
		z := newFuzzed(t, &script)
		for len(script) > 0 {
			z.step(&script)
			z.recount()
		}
		z.drain()
	})
}

type fuzzed struct {
	t       *testing.T
	engine  *Engine
	now     time.Duration
	numbers []seqnum.Value // that were seen on the wire
}

const fuzzLimit = 2

func newFuzzed(t *testing.T, script *[]byte) *fuzzed {
	choice := next(script)
	r := rules.Rule{
		Number: 1, Name: "web", MaxSrcConn: fuzzLimit, SourcePrefixV4: 32, SourcePrefixV6: 64, Backlog: 8,
		State: []rules.State{rules.Keep, rules.Synproxy, rules.Adaptive, rules.Synproxy}[choice%4],
		Count: rules.Count(choice >> 2 % 2),
	}
	e := New(Config{
		Ruleset: rules.New([]rules.Rule{r}, nil), Timeouts: []conntrack.Lifetimes{{Timeouts: conntrack.DefaultTimeouts()}},
		States: 6, SrcNodes: 2, Cookies: synproxy.CookieMode(choice >> 3 % 3), Start: 0.4, End: 0.2,
	}, scenarioSeeds)
	e.SetTimestamps(choice&0x80 != 0)
	return &fuzzed{t: t, engine: e, numbers: []seqnum.Value{100, 101, 500, 501}}
}

// next takes an octet off the script, 0 at its end.
func next(script *[]byte) byte {
	if len(*script) == 0 {
		return 0
	}
	b := (*script)[0]
	*script = (*script)[1:]
	return b
}

func (z *fuzzed) step(script *[]byte) {
	switch b := next(script); {
	case b >= 0xf8:
		z.now += time.Duration(next(script)) * time.Second
		z.tick(b&1 != 0)
	case b >= 0xf0:
		z.engine.RotateKey(cookie.Key{uint64(b), uint64(len(*script))})
	case b == 0xef:
		z.engine.Abort(z.now, tupleOf(next(script)), &Decision{})
	default:
		z.handle(z.packet(b, script))
	}
}

// tupleOf is one of a few connections, of three clients.
func tupleOf(b byte) packet.Tuple {
	client := netip.AddrFrom4([4]byte{198, 51, 100, 7 + b>>1%3})
	return packet.TupleFrom(netip.AddrPortFrom(client, 40000+uint16(b%2)), scenarioServer)
}

var fuzzFlags = [8]packet.Flags{
	packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK, packet.ACK | packet.PSH,
}

func (z *fuzzed) packet(b byte, script *[]byte) *packet.Packet {
	p := &packet.Packet{Tuple: tupleOf(b), InName: "eth0", InDev: 2, Flags: fuzzFlags[b>>3%8], Window: uint16(next(script)) << 7}
	side := next(script)
	if side&1 != 0 {
		p.Tuple = p.Tuple.Reverse()
	}
	if side&3 == 1 { // and not forged
		p.InName, p.InDev = "eth1", 3
	}
	p.Seq, p.Ack = z.number(next(script)), z.number(next(script))
	o := next(script)
	p.Options = packet.Options{
		MSS: uint16(o) * 100, HasWScale: o&1 != 0, WScale: o % 15, SACKPermitted: o&2 != 0,
		HasTimestamp: o&4 != 0, TSVal: uint32(p.Seq), TSEcr: uint32(p.Ack), FastOpen: o == 0x88,
	}
	if side&0x40 != 0 {
		p.PayloadLen = uint32(o)
	}
	p.Conn = packet.Conn(side >> 2 % 5)
	if p.Flags.Has(packet.SYN) {
		p.Conn = packet.ConnNone
	}
	p.Kernel = packet.KernelNotAsked
	return p
}

// number is one that was seen, or next to it.
func (z *fuzzed) number(b byte) seqnum.Value {
	return z.numbers[int(b>>2)%len(z.numbers)] + seqnum.Value(b%4) - 1
}

func (z *fuzzed) handle(p *packet.Packet) {
	var d Decision
	z.engine.Handle(z.now, p, &d)
	if d.Offload.Op == packet.OffloadQuery {
		p.Kernel = packet.KernelAbsent
		if p.Window&0x80 != 0 {
			p.Kernel = packet.KernelPresent
		}
		z.engine.Handle(z.now, p, &d)
	}
	if d.Offload.Op == packet.OffloadQuery {
		z.t.Fatal("asked again for what was answered")
	}
	if d.Verdict == packet.Drop && d.Reason == packet.ReasonMatch {
		z.t.Fatalf("dropped without a reason: %+v", p)
	}
	z.see(&d)
}

// see remembers the numbers of our own segments.
func (z *fuzzed) see(d *Decision) {
	for _, s := range d.Segments() {
		z.numbers = append(z.numbers, s.Seq, s.Ack)
	}
	if n := len(z.numbers); n > 60 {
		z.numbers = z.numbers[n-60:]
	}
}

func (z *fuzzed) tick(present bool) {
	var queries []packet.Tuple
	for range sweepParts {
		z.engine.Tick(z.now, func(d *Decision) {
			z.see(d)
			if d.Offload.Op == packet.OffloadQuery {
				queries = append(queries, d.Offload.Tuple)
			}
		})
	}
	for _, t := range queries {
		var d Decision
		z.engine.Idle(z.now, t, 1000*time.Hour, present, &d)
		z.see(&d)
	}
}

// recount holds the engine's counters against a count of what is in its table.
func (z *fuzzed) recount() {
	states, halfOpen := 0, 0
	slots := make(map[conntrack.SourceKey]int)
	for i := range z.engine.table.Shards() {
		sh := z.engine.table.LockShard(i)
		sh.Each(func(s *conntrack.State) {
			states++
			if s.HalfOpen() {
				halfOpen++
			}
			if s.Counts() {
				slots[z.engine.ruleOf(s).sourceKey(s.Tuple.Src)]++
			}
		})
		sh.Unlock()
	}
	if states != z.engine.Len() || states > 6 {
		z.t.Fatalf("%d states, the table says %d, at most 6", states, z.engine.Len())
	}
	for _, p := range z.engine.pressuresOf(z.engine.rules.Load().byID[0]) {
		if n := p.states.Load(); int(n) != halfOpen {
			z.t.Fatalf("%d half-open, the switch says %d", halfOpen, n)
		}
	}
	_ = z.engine.Sources(z.now, func(l *ListedSource) error {
		if n := l.Conns; n != slots[l.Key] || n > fuzzLimit {
			z.t.Fatalf("%v: %d slots, %d states that count, limit %d", l.Key, n, slots[l.Key], fuzzLimit)
		}
		return nil
	})
}

// drain lets all time pass.
func (z *fuzzed) drain() {
	for range 20 {
		z.now += 30 * time.Hour
		z.tick(false)
	}
	z.recount()
	if n := z.engine.Len(); n != 0 {
		z.t.Fatalf("%d states are left", n)
	}
	if n := z.engine.SourceLen(); n > 0 {
		z.t.Fatalf("%d sources are left", n)
	}
	if z.engine.total.on.Load() && z.engine.total.states.Load() == 0 && !z.engine.total.cookiesLive() {
		z.t.Fatal("the switch is left on")
	}
}
