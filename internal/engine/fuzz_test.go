package engine

import (
	"net/netip"
	"slices"
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
// numbers but mostly such that mean something, and of reloads and kills. It looks after
// each that what is counted is what there is, and that nothing has grown above a limit;
// and at the end that nothing is left.
func FuzzEngine(f *testing.F) {
	for mode := range byte(3) { // kept, proxied, adaptive, with all limits
		f.Add(slices.Concat([]byte{0, mode, 0xff, 1, mode, 0xff, 1, 1}, fuzzHandshake(0), fuzzHandshake(1), []byte{0xf5, 0, 0xf8, 9, 0xf2, 2, 2, 3, 4}))
	}
	for bit := range byte(5) { // each limit alone, and more handshakes at once than it allows
		script := []byte{8, 0, 1 << bit, 0, 0, 0, 0, 1}
		for step := 0; step < 18; step += 6 {
			for tuple := range byte(6) {
				script = append(script, fuzzHandshake(tuple)[step:step+6]...)
			}
		}
		f.Add(script)
	}
	f.Add(slices.Concat([]byte{4, 0x40, 0x21, 0, 8, 1, 0, 1}, fuzzHandshake(0), fuzzHandshake(1), fuzzHandshake(2), []byte{0xf8, 200}))
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

// fuzzHandshake are the packets of a kept connection, and the FIN of its server.
func fuzzHandshake(tuple byte) []byte {
	opening, established := byte(packet.ConnOpening)<<2, byte(packet.ConnEstablished)<<2
	return []byte{
		fuzzOp(0, tuple), 4, 0, 1, 1, 0, // S seq=100
		fuzzOp(1, tuple), 4, 1, 9, 5, 0, // SA seq=500 ack=101
		fuzzOp(2, tuple), 4, opening, 5, 13, 0, // A seq=101 ack=501
		fuzzOp(4, tuple), 4, established | 1, 13, 5, 0, // FA seq=501 ack=101
	}
}

// fuzzOp is the octet for a packet with one of fuzzFlags.
func fuzzOp(flags, tuple byte) byte {
	b := flags << 3
	for tupleOf(b, 80) != tupleOf(tuple, 80) {
		b++
	}
	return b
}

type fuzzed struct {
	t       *testing.T
	engine  *Engine
	config  Config
	now     time.Duration
	numbers []seqnum.Value // that were seen on the wire
	bounds  bounds
}

func newFuzzed(t *testing.T, script *[]byte) *fuzzed {
	c := fuzzConfig(script)
	e := New(c, scenarioSeeds)
	e.SetTimestamps(next(script)&1 != 0)
	return &fuzzed{t: t, engine: e, config: c, numbers: []seqnum.Value{100, 101, 500, 501}, bounds: boundsOf(e, 0)}
}

// fuzzConfig is one of a few configurations of one or two rules.
func fuzzConfig(script *[]byte) Config {
	b := next(script)
	c := Config{
		States: 6, SrcNodes: 1 + int(b>>2%3), Cookies: synproxy.CookieMode(b >> 4 % 3), Start: 0.4, End: 0.2,
	}
	if b >= 0xc0 {
		c.States = 3
	}
	var list []rules.Rule
	for i, name := range []string{"web", "alt"} {
		if int(b%4) == i+2 { // this one is not there
			continue
		}
		r, l := fuzzRule(script)
		r.Number, r.Name = len(list)+1, name
		port := uint16(80 + i)
		r.Ports = []rules.PortRange{{First: port, Last: port}}
		list, c.Timeouts = append(list, r), append(c.Timeouts, l)
	}
	c.Ruleset = rules.New(list, nil)
	return c
}

// fuzzRule is a rule with some of the limits, each so low that it is reached.
func fuzzRule(script *[]byte) (r rules.Rule, l conntrack.Lifetimes) {
	mode, limits, more := next(script), next(script), next(script)
	r = rules.Rule{
		State: rules.State(mode % 3), Count: rules.Count(mode >> 2 % 2), SourceTrack: rules.Track(mode >> 3 % 2),
		CountOnly: mode>>4%4 == 1, SourcePrefixV4: 32, SourcePrefixV6: 64, Backlog: 8, Flush: rules.Flush(mode >> 6 % 3),
	}
	set := func(bit byte, limit *uint32, n uint32) {
		if limits&bit != 0 {
			*limit = n
		}
	}
	set(1, &r.MaxSrcConn, 1+uint32(more%3))
	set(2, &r.Max, 3)
	set(4, &r.MaxSrcStates, 1)
	set(8, &r.MaxSrcNodes, 1)
	set(16, &r.MaxSrcConnRate.Count, 1)
	if r.MaxSrcConnRate.Count > 0 {
		r.MaxSrcConnRate.Window = 20 * time.Second
	}
	if limits&32 != 0 {
		r.Overload = "abusers"
	}
	l.Timeouts = conntrack.DefaultTimeouts()
	if limits&64 != 0 {
		l.Scaling, l.OwnScaling = conntrack.Scaling{Start: 2, End: 5}, more&8 != 0
	}
	if limits&128 != 0 {
		l.SrcTrack = time.Minute
	}
	return r, l
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
	case b >= 0xf5:
		z.kill(next(script))
	case b >= 0xf2:
		z.config = fuzzConfig(script)
		z.engine.Reload(z.now, z.config)
		z.bounds = boundsOf(z.engine, z.now)
	case b >= 0xf0:
		z.engine.RotateKey(cookie.Key{uint64(b), uint64(len(*script))})
	case b == 0xef:
		z.engine.Abort(z.now, tupleOf(next(script), 80), &Decision{})
	default:
		z.handle(z.packet(b, script))
	}
}

// kill ends all connections, or those of a rule or of a client.
func (z *fuzzed) kill(b byte) {
	client := tupleOf(b>>2, 80).Src
	match := func(s *conntrack.State, rule string) bool {
		return b&1 == 0 && s.Tuple.Src == client || b&1 != 0 && (b&4 == 0 || rule == "web")
	}
	z.engine.Kill(z.now, match, b&2 != 0, z.see)
	_ = z.engine.States(z.now, func(l *Listed) error {
		if match(&l.State, l.RuleName) {
			z.t.Fatalf("%v was killed, and is listed", l.Tuple)
		}
		return nil
	})
}

// tupleOf is one of a few connections, of three clients.
func tupleOf(b byte, port uint16) packet.Tuple {
	client := netip.AddrFrom4([4]byte{198, 51, 100, 7 + b>>1%3})
	return packet.TupleFrom(netip.AddrPortFrom(client, 40000+uint16(b%2)), netip.AddrPortFrom(scenarioServer.Addr(), port))
}

var fuzzFlags = [8]packet.Flags{
	packet.SYN, packet.SYN | packet.ACK, packet.ACK, packet.ACK, packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK, packet.ACK | packet.PSH,
}

func (z *fuzzed) packet(b byte, script *[]byte) *packet.Packet {
	window, side := next(script), next(script)
	p := &packet.Packet{
		Tuple: tupleOf(b, 80+uint16(side>>7)), InName: "eth0", InDev: 2, Flags: fuzzFlags[b>>3%8], Window: uint16(window) << 7,
	}
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
			p.Kernel = packet.KernelPresent + packet.Kernel(p.Window&3)
		}
		z.engine.Handle(z.now, p, &d)
	}
	if d.Offload.Op == packet.OffloadQuery {
		z.t.Fatal("asked again for what was answered")
	}
	if d.Verdict == packet.Drop && d.Reason == packet.ReasonMatch {
		z.t.Fatalf("dropped without a reason: %+v", p)
	}
	if r := z.engine.named(d.Refusal.Rule); d.Refusal.Enforced && d.Refusal.Reason != packet.ReasonMemory && r.CountOnly {
		z.t.Fatalf("a rule that only counts refuses: %+v", d.Refusal)
	}
	if d.Overload.Table != "" && (!d.Refusal.Enforced || d.Refusal.Rule != d.Overload.Rule) {
		z.t.Fatalf("overload %+v without a refusal: %+v", d.Overload, d.Refusal)
	}
	z.see(&d)
}

// named is a rule by its name.
func (e *Engine) named(name string) (r rules.Rule) {
	for _, x := range e.rules.Load().byID {
		if x != nil && x.Name == name {
			r = *x.Rule
		}
	}
	return r
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

// recount holds the engine's counts against its table and, where they have grown,
// against the limits.
func (z *fuzzed) recount() {
	if err := z.engine.Recount(); err != nil {
		z.t.Fatal(err)
	}
	after := boundsOf(z.engine, z.now)
	if err := after.grownSince(z.bounds); err != nil {
		z.t.Fatal(err)
	}
	z.bounds = after
}

// drain lets all time pass.
func (z *fuzzed) drain() {
	for range 20 {
		z.now += 30 * time.Hour
		z.tick(false)
	}
	z.engine.Reload(z.now, z.config)
	z.recount()
	for _, x := range z.engine.rules.Load().byID {
		if x != nil && x.gone {
			z.t.Fatalf("rule %s has vanished, and is left", x.Name)
		}
	}
	if n := z.engine.table.Len(); n != 0 {
		z.t.Fatalf("%d states are left", n)
	}
	if n := z.engine.SourceLen(); n > 0 {
		z.t.Fatalf("%d sources are left", n)
	}
	if z.engine.total.on.Load() && z.engine.total.states.Load() == 0 && !z.engine.total.cookiesLive() {
		z.t.Fatal("the switch is left on")
	}
}
