package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/rules"
	"nfqfw/synproxy"
	"nfqfw/synproxy/cookie"
)

var update = flag.Bool("update", false, "write what the engine does into the scenario files")

// A scenario is a text file of packets and of what the engine does about them.
// Lines that start with two spaces are its answers and are compared; all others
// are input:
//
//	rule state=synproxy max_src_conn=2    one rule for 192.0.2.10:80
//	reload name=b max_src_conn=1          the one rule from now on
//	server mss=1460 ws=7 sack             what is known of the server
//	at 1.5                                the time, in seconds
//	c S seq=100 win=64240 mss=1460        a packet from the client, port 40000
//	s SA seq=500 ack=101                  one from the server
//	c:40001 S seq=100                     another port of the client's
//	c2 S seq=100                          another client, and s2 what it is answered
//	adopt c:40001                         a handshake that was under way before there was the engine
//	forged R seq=501                      in the server's name, from where clients are
//	copy c FA seq=101 ack=501             one that the kernel has let pass, and tells of
//	missed closing closed 1               what the kernel tells of port 40000: the client's side and the
//	                                      server's, and since when, in seconds
//	timestamps off                        the kernel cannot translate them, from now on
//	tick                                  what is due without a packet
//	states                                the table
//	pressure                              the switches
//	kill silent                           all connections, in silence or not
//	rotate                                a new key for the cookies
//	doubt                                 whether port 40000 has heard its server's own timestamps
//	idle 60                               the answer to a query of tick's for port 40000: seconds
//	kernel present                        what the next query finds: present, absent, closing, closed, and at
//	                                      first, which is to obey all that closes, reset
//
// A number may be written relative to the last cookie: ack=P+1. N is the number
// that the last question to a server acknowledges.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScenario(t, file, false) })
	}
}

// An engine that goes on in the place of another does what that would have done,
// whatever had happened.
func TestScenariosWithHandovers(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScenario(t, file, true) })
	}
}

// handOver puts another engine in the place of this one.
func (s *scenario) handOver() {
	var b bytes.Buffer
	out := gob.NewEncoder(&b)
	s.must("handover", out.Encode(s.engine.Save(s.now)))
	s.must("handover", s.engine.EachSaved(func(part []SavedState) error { return out.Encode(part) }))
	in := gob.NewDecoder(&b)
	var snapshot Snapshot
	s.must("handover", in.Decode(&snapshot))
	next := Resume(&snapshot, scenarioSeeds, nil)
	next.SetTimestamps(s.engine.stamps.Load())
	for {
		var part []SavedState
		err := in.Decode(&part)
		if errors.Is(err, io.EOF) {
			break
		}
		s.must("handover", err)
		for i := range part {
			if !next.RestoreState(s.now, &part[i]) {
				s.t.Fatalf("no room for %v", part[i].State.Tuple)
			}
		}
	}
	next.Resumed()
	s.engine = next
}

func runScenario(t *testing.T, file string, handOver bool) {
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &scenario{t: t, kernel: packet.KernelReset}
	in := bufio.NewScanner(strings.NewReader(string(want)))
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "  ") {
			continue
		}
		fmt.Fprintln(&s.out, line)
		s.do(line)
		if handOver && s.engine != nil {
			s.handOver()
		}
	}
	if *update && !handOver {
		if err := os.WriteFile(file, []byte(s.out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := s.out.String(); got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

type scenario struct {
	t      *testing.T
	out    strings.Builder
	engine *Engine
	now    time.Duration
	cookie seqnum.Value
	probe  seqnum.Value
	kernel packet.Kernel
}

func (s *scenario) do(line string) {
	words := strings.Fields(strings.SplitN(line, "#", 2)[0])
	if len(words) == 0 {
		return
	}
	switch words[0] {
	case "rule":
		s.engine = New(scenarioConfig(s.t, words[1:]), scenarioSeeds)
		s.engine.SetTimestamps(true)
	case "reload":
		s.engine.Reload(s.now, scenarioConfig(s.t, words[1:]))
	case "at":
		seconds, err := strconv.ParseFloat(words[1], 64)
		s.must(line, err)
		s.now = time.Duration(seconds * float64(time.Second))
	case "server":
		p := &packet.Packet{}
		for _, w := range words[1:] {
			s.must(line, s.set(p, w))
		}
		all := packet.Options{HasWScale: true, SACKPermitted: true, HasTimestamp: true}
		s.engine.servers.Learn(packet.TupleFrom(netip.AddrPort{}, scenarioServer), all, p.Options, s.now)
	case "adopt":
		p, err := s.parse([]string{words[1], "S"})
		s.must(line, err)
		if !s.engine.Adopt(s.now, &Adoption{Tuple: p.Tuple, InName: "eth0", InDev: 2, ReplyDev: 3, Opening: true}) {
			s.t.Fatalf("%s: not adopted", line)
		}
	case "copy":
		s.copied(line, words[1:])
	case "missed":
		s.missed(line, words[1:])
	case "timestamps":
		s.engine.SetTimestamps(words[1] == "on")
	case "tick":
		for range sweepParts {
			s.engine.Tick(s.now, s.print)
		}
	case "states":
		s.states()
	case "pressure":
		s.pressure(s.engine.Total())
		s.engine.Pressures(s.pressure)
	case "kill":
		silent := len(words) > 1 && words[1] == "silent"
		n := s.engine.Kill(s.now, func(*conntrack.State, string) bool { return true }, silent, s.print)
		fmt.Fprintf(&s.out, "  killed %d\n", n)
	case "doubt":
		t := packet.TupleFrom(netip.AddrPortFrom(scenarioClient, 40000), scenarioServer)
		if m, ok := s.engine.Doubt(t); ok {
			fmt.Fprintf(&s.out, "  mark%s\n", markName(m))
		}
	case "rotate":
		s.engine.RotateKey(cookie.Key{uint64(s.now), 5})
	case "idle":
		seconds, err := strconv.Atoi(words[1])
		s.must(line, err)
		var d Decision
		t := packet.TupleFrom(netip.AddrPortFrom(scenarioClient, 40000), scenarioServer)
		s.engine.Idle(s.now, t, time.Duration(seconds)*time.Second, s.kernel.Present(), &d)
		s.print(&d)
	case "kernel":
		s.kernel = map[string]packet.Kernel{
			"present": packet.KernelPresent, "absent": packet.KernelAbsent, "closing": packet.KernelClosing, "closed": packet.KernelClosed, "reset": packet.KernelReset,
		}[words[1]]
	default:
		s.packet(line, words)
	}
}

func (s *scenario) must(line string, err error) {
	if err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
}

func (s *scenario) packet(line string, words []string) {
	p, err := s.parse(words)
	s.must(line, err)
	d := s.handle(p)
	mark := markName(d.Mark)
	reason := ""
	if d.Verdict == packet.Drop {
		reason = " " + d.Reason.String()
	}
	if r := d.Refusal; r.Enforced && r.Limit > 0 {
		reason += fmt.Sprintf(" %d/%d rule %s", r.Count, r.Limit, r.Rule)
	} else if r.Reason != packet.ReasonMatch && !r.Enforced {
		reason += fmt.Sprintf(" would refuse: %s %d/%d rule %s", r.Reason, r.Count, r.Limit, r.Rule)
	}
	if o := d.Overload; o.Table != "" {
		reason += fmt.Sprintf(" overload <%s> %s flush %s", o.Table, o.Prefix, o.Flush)
	}
	fmt.Fprintf(&s.out, "  %v%s%s\n", d.Verdict, mark, reason)
}

// handle shows what the engine does about a packet, but for the verdict.
func (s *scenario) handle(p *packet.Packet) (d Decision) {
	s.engine.Handle(s.now, p, &d)
	if d.Offload.Op == packet.OffloadQuery {
		fmt.Fprintln(&s.out, "  query")
		p.Kernel = s.kernel
		s.engine.Handle(s.now, p, &d)
	}
	s.print(&d)
	return d
}

// copied is a packet that wants no verdict.
func (s *scenario) copied(line string, words []string) {
	p, err := s.parse(words)
	s.must(line, err)
	p.Conn, p.Copied = packet.ConnEstablished, true
	s.handle(p)
}

func (s *scenario) missed(line string, words []string) {
	sides := map[string]conntrack.PeerState{"open": conntrack.Established, "closing": conntrack.Closing, "closed": conntrack.FinWait2}
	since, err := strconv.ParseFloat(words[2], 64)
	s.must(line, err)
	s.engine.CatchUp(s.now, time.Duration(since*float64(time.Second)), &Adoption{
		Tuple: packet.TupleFrom(netip.AddrPortFrom(scenarioClient, 40000), scenarioServer), Src: sides[words[0]], Dst: sides[words[1]],
	})
}

func (s *scenario) print(d *Decision) {
	switch d.Offload.Op {
	case packet.OffloadCreate:
		track := ""
		if d.Offload.Mark&packet.MarkSteer == packet.MarkTrack {
			track = " track"
		}
		if d.Offload.TSDiff != 0 {
			track += " tsdiff=" + s.number(seqnum.Value(d.Offload.TSDiff))
		}
		fmt.Fprintf(&s.out, "  create seqdiff=%s timeout=%v wscale=%v,%d,%d sack=%v%s\n", s.number(seqnum.Value(d.Offload.SeqDiff)),
			d.Offload.Timeout, d.Offload.HasWScale, d.Offload.SrcWScale, d.Offload.DstWScale, d.Offload.SACKPermitted, track)
	case packet.OffloadDelete:
		fmt.Fprintln(&s.out, "  delete")
	case packet.OffloadMark:
		fmt.Fprintf(&s.out, "  mark%s\n", markName(d.Offload.Mark))
	case packet.OffloadQuery:
		fmt.Fprintln(&s.out, "  query")
	}
	for _, seg := range d.Segments() {
		from := "s>c"
		if seg.DstPort == 80 {
			from = "c>s"
		}
		switch seg.Flags {
		case packet.SYN | packet.ACK:
			s.cookie = seg.Seq
		case packet.FIN | packet.ACK:
			s.probe = seg.Ack
		}
		if seg.Tracked {
			from += " tracked"
		}
		fmt.Fprintf(&s.out, "  %s %v seq=%s", from, seg.Flags, s.number(seg.Seq))
		if seg.Flags.Has(packet.ACK) {
			fmt.Fprintf(&s.out, " ack=%s", s.number(seg.Ack))
		}
		fmt.Fprintf(&s.out, " win=%d%s\n", seg.Window, s.optionWords(seg.Options))
	}
}

func (s *scenario) optionWords(o packet.Options) string {
	var b strings.Builder
	if o.MSS != 0 {
		fmt.Fprintf(&b, " mss=%d", o.MSS)
	}
	if o.HasWScale {
		fmt.Fprintf(&b, " ws=%d", o.WScale)
	}
	if o.SACKPermitted {
		b.WriteString(" sack")
	}
	if o.HasTimestamp {
		fmt.Fprintf(&b, " ts=%s,%s", s.number(seqnum.Value(o.TSVal)), s.number(seqnum.Value(o.TSEcr)))
	}
	return b.String()
}

// number writes a number relative to the cookie if it is near it: a cookie
// looks different with every key.
func (s *scenario) number(v seqnum.Value) string {
	if s.probe != 0 && v == s.probe {
		return "N"
	}
	if d := int32(v - s.cookie); s.cookie != 0 && d > -100000 && d < 100000 {
		return fmt.Sprintf("P%+d", d)
	}
	return strconv.FormatUint(uint64(v), 10)
}

func (s *scenario) states() {
	var lines []string
	_ = s.engine.States(s.now, func(l *Listed) error {
		line := fmt.Sprintf("  %d %s:%s %v", l.Tuple.SrcPort, l.Dst.State, l.Src.State, l.Timeout)
		if l.ShakingHands() {
			line = fmt.Sprintf("  %d %s %v", l.Tuple.SrcPort, l.Src.State, l.Timeout)
		}
		if l.Counting {
			line += " counts"
		}
		lines = append(lines, line)
		return nil
	})
	slices.Sort(lines)
	if len(lines) == 0 {
		lines = []string{"  none"}
	}
	fmt.Fprintln(&s.out, strings.Join(lines, "\n"))
}

func (s *scenario) pressure(p Pressure) {
	fmt.Fprintf(&s.out, "  %s half-open %d start %d end %d on %v switches %d\n",
		cmp.Or(p.Rule, "all"), p.HalfOpen, p.Start, p.End, p.On, p.Switches)
}

var (
	scenarioClient = netip.MustParseAddr("198.51.100.7")
	scenarioServer = netip.MustParseAddrPort("192.0.2.10:80")
)

func (s *scenario) parse(words []string) (*packet.Packet, error) {
	from, port, _ := strings.Cut(words[0], ":")
	if port == "" {
		port = "40000"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	p := &packet.Packet{Conn: packet.ConnEstablished, InName: "eth0", InDev: 2}
	client := scenarioClient
	from, isOther := strings.CutSuffix(from, "2")
	if isOther {
		client = client.Next()
	}
	p.Tuple = packet.TupleFrom(netip.AddrPortFrom(client, uint16(n)), scenarioServer)
	switch from {
	case "s":
		p.Tuple, p.InName, p.InDev = p.Tuple.Reverse(), "eth1", 3
	case "forged":
		p.Tuple = p.Tuple.Reverse()
	}
	for _, c := range words[1] {
		p.Flags |= map[rune]packet.Flags{'S': packet.SYN, 'A': packet.ACK, 'F': packet.FIN, 'R': packet.RST, 'P': packet.PSH}[c]
	}
	switch {
	case p.Flags.Has(packet.SYN):
		p.Conn = packet.ConnNone
	case s.shakes(p.Tuple):
		p.Conn = packet.ConnNew
	}
	for _, w := range words[2:] {
		if err := s.set(p, w); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (s *scenario) set(p *packet.Packet, word string) error {
	key, value, _ := strings.Cut(word, "=")
	value, echo, _ := strings.Cut(value, ",")
	n, err := s.parseNumber(value)
	if err != nil {
		return fmt.Errorf("%s: %w", word, err)
	}
	switch key {
	case "seq":
		p.Seq = n
	case "ack":
		p.Ack = n
	case "win":
		p.Window = uint16(n)
	case "len":
		p.PayloadLen = uint32(n)
	case "mss":
		p.Options.MSS = uint16(n)
	case "ws":
		p.Options.WScale, p.Options.HasWScale = uint8(n), true
	case "fastopen":
		p.Options.FastOpen = true
	case "sack":
		p.Options.SACKPermitted = true
	case "ts":
		e, err := s.parseNumber(echo)
		p.Options.HasTimestamp, p.Options.TSVal, p.Options.TSEcr = true, uint32(n), uint32(e)
		return err
	case "new":
		p.Conn = packet.ConnNew
	case "invalid":
		p.Conn = packet.ConnInvalid
	case "opening":
		p.Conn = packet.ConnOpening
	default:
		return fmt.Errorf("%s: unknown word", word)
	}
	return nil
}

// shakes says whether the SYN proxy has a handshake under way for a tuple: the
// kernel has no entry then.
func (s *scenario) shakes(t packet.Tuple) bool {
	sh := s.engine.table.Lock(t)
	defer sh.Unlock()
	state, _ := sh.Find(t)
	return state != nil && state.ShakingHands()
}

func (s *scenario) parseNumber(text string) (seqnum.Value, error) {
	if text == "" {
		return 0, nil
	}
	if text == "N" {
		return s.probe, nil
	}
	if rest, ok := strings.CutPrefix(text, "P"); ok {
		n, err := strconv.ParseInt("0"+rest, 10, 32)
		if rest != "" {
			n, err = strconv.ParseInt(rest, 10, 32)
		}
		return s.cookie + seqnum.Value(n), err
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return seqnum.Value(n), err
}

var scenarioSeeds = Seeds{NewerKey: cookie.Key{1, 2}, OlderKey: cookie.Key{3, 4}}

func scenarioConfig(t testing.TB, words []string) Config {
	r := rules.Rule{Number: 1, Name: "web", SourcePrefixV4: 32, SourcePrefixV6: 64, Ports: []rules.PortRange{{First: 80, Last: 80}}}
	c := Config{States: 1000, Start: 0.25, End: 0.12, SrcNodes: 1000}
	lifetimes := conntrack.Lifetimes{Timeouts: conntrack.DefaultTimeouts()}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		n, _ := strconv.Atoi(value)
		switch w {
		case "state=synproxy":
			r.State = rules.Synproxy
		case "refuse=drop":
			r.Refuse = rules.RefuseDrop
		case "enforce=false":
			r.CountOnly = true
		case "source_track=global":
			r.SourceTrack = rules.TrackGlobal
		case "flush=global":
			r.Flush = rules.FlushGlobal
		case "count=states":
			r.Count = rules.CountStates
		case "action=block":
			r.Action = rules.Block
		case "cookies":
			c.Cookies = synproxy.CookiesAlways
		case "cookies=adaptive":
			c.Cookies = synproxy.CookiesAdaptive
		case "state=adaptive":
			r.State = rules.Adaptive
		default:
			switch key {
			case "max_src_conn":
				r.MaxSrcConn = uint32(n)
			case "name":
				r.Name = value
			case "port":
				r.Ports[0] = rules.PortRange{First: uint16(n), Last: uint16(n)}
			case "max":
				r.Max = uint32(n)
			case "max_src_states":
				r.MaxSrcStates = uint32(n)
			case "max_src_nodes":
				r.MaxSrcNodes = uint32(n)
			case "max_src_conn_rate":
				count, window, _ := strings.Cut(value, "/")
				of, err := strconv.Atoi(count)
				long, err2 := time.ParseDuration(window)
				if err != nil || err2 != nil {
					t.Fatalf("rule: %s: %v, %v", w, err, err2)
				}
				r.MaxSrcConnRate = rules.Rate{Count: uint32(of), Window: long}
			case "overload":
				r.Overload = value
			case "adaptive.start":
				lifetimes.Start = n
			case "adaptive.end":
				lifetimes.End = n
			case "states":
				c.States = n
			case "src_nodes":
				c.SrcNodes = n
			case "backlog":
				r.Backlog = uint32(n)
			default:
				t.Fatalf("rule: %s: unknown word", w)
			}
		}
	}
	c.Ruleset, c.Timeouts = rules.New([]rules.Rule{r}, nil), []conntrack.Lifetimes{lifetimes}
	return c
}

// markName is what a mark tells the hooks, with a space before it.
func markName(m packet.Mark) string {
	name := map[packet.Mark]string{
		packet.MarkOpening: " opening", packet.MarkTrack: " track", packet.MarkClear: " clear", packet.MarkSeen: " seen",
		packet.MarkClear | packet.MarkClientClosed: " clear client-closed",
	}[m&packet.MarkSteer]
	if m&packet.MarkServerClosed != 0 {
		name += " server-closed"
	}
	return name
}
