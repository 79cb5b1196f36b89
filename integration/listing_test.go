package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"nfqfw/internal/control"
)

const listedRules = `
[[rule]]
name = "web"
on = ["eth0"]
port = [80]
state = %[1]q
max_src_conn = 2

[[rule]]
name = "tls"
port = [443]
state = %[1]q
max_src_conn_rate = "3/10m"

[[rule]]
name = "try"
port = [81]
state = %[1]q
max = 2
enforce = false

[[rule]]
name = "closed"
action = "block"
port = [82]
`

// Each listing, as text and as JSON, against what the server's sockets and the kernel's
// conntrack say. One source has two of three connections to web, another one; a third
// has three of four to tls; and so on, in either family.
func TestListings(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			four := guardWith(t, fmt.Sprintf(listedRules, policy), places[0], IPv4, AcceptOptions{Echo: true})
			six := four.beside(places[0], IPv6, AcceptOptions{Echo: true})
			for _, g := range []*guarded{four, six} {
				for _, port := range []uint16{443, 81} {
					must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(port), AcceptOptions{Echo: true}))
				}
				g.hold(0, 80, 3, 2)
				g.hold(1, 80, 1, 1)
				g.hold(2, 443, 4, 3)
				g.hold(3, 81, 3, 3)
				g.hold(4, 82, 1, 0)
			}
			l := &listings{guarded: four}
			l.states()
			l.filters()
			l.sources()
			l.refusals()
			l.rules()
			l.settings()
		})
	}
}

// hold has a source open connections to a port, of which so many are to be let in.
func (g *guarded) hold(source int, port uint16, n, want int) {
	g.t.Helper()
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(source), To: g.addr(port), N: n})
	if h.Count(Held) != want {
		g.t.Fatalf("port %d: %v, want %d held", port, h, want)
	}
}

// A counterPair is what the kernel has counted of a connection.
type counterPair struct{ original, reply control.Counter }

var conntrackLine = regexp.MustCompile(
	`src=(\S+) dst=\S+ sport=(\d+) dport=\d+ packets=(\d+) bytes=(\d+) src=.* packets=(\d+) bytes=(\d+) `)

// conntrack is what conntrack(8) says has been counted, by client.
func (g *guarded) conntrack() map[netip.AddrPort]counterPair {
	g.t.Helper()
	all := make(map[netip.AddrPort]counterPair)
	for _, f := range []string{"ipv4", "ipv6"} {
		out := must[[]byte](g.t, "conntrack -L")(g.lab.Gateway.Command(g.ctx, "conntrack", "-L", "-p", "tcp", "-f", f).Output())
		for line := range strings.Lines(string(out)) {
			m := conntrackLine.FindStringSubmatch(line)
			if m == nil {
				g.t.Fatalf("conntrack -L: %s", line)
			}
			var n [5]uint64
			for i := range n {
				n[i] = must[uint64](g.t, line)(strconv.ParseUint(m[i+2], 10, 64))
			}
			client := netip.AddrPortFrom(netip.MustParseAddr(m[1]), uint16(n[0]))
			all[client] = counterPair{control.Counter{Packets: n[1], Bytes: n[2]}, control.Counter{Packets: n[3], Bytes: n[4]}}
		}
	}
	return all
}

// listings are looked at while nothing is sent.
type listings struct {
	*guarded
	sockets Sockets // the server's that are established
	counted map[netip.AddrPort]counterPair
}

// run is what a command prints.
func (l *listings) run(args ...string) string {
	l.t.Helper()
	out, err := l.fw.Command(l.ctx, args...)
	if err != nil {
		l.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

// document is the one that a command prints with --json.
func document[T any](l *listings, args ...string) (doc T) {
	l.t.Helper()
	if err := json.Unmarshal([]byte(l.run(append(args, "--json")...)), &doc); err != nil {
		l.t.Fatalf("%v: %v", args, err)
	}
	return doc
}

type statesDocument struct{ States []control.State }

// pairs are the counters of a listing, by client.
func (d *statesDocument) pairs() map[netip.AddrPort]counterPair {
	all := make(map[netip.AddrPort]counterPair)
	for _, s := range d.States {
		var p counterPair
		if s.Original != nil && s.Reply != nil {
			p = counterPair{*s.Original, *s.Reply}
		}
		all[netip.AddrPortFrom(s.Source.Address, s.Source.Port)] = p
	}
	return all
}

// states waits until all is quiet: until the counters that were listed are those of the
// kernel's before and after.
func (l *listings) states() {
	l.t.Helper()
	var got map[netip.AddrPort]counterPair
	err := Poll(l.ctx, func() bool {
		l.counted = l.conntrack()
		doc := document[statesDocument](l, "states")
		got = doc.pairs()
		return maps.Equal(got, l.counted) && maps.Equal(l.conntrack(), l.counted)
	})
	if err != nil || len(got) == 0 {
		l.t.Fatalf("counters\n%v, by conntrack\n%v", got, l.counted)
	}
	l.sockets = must[Sockets](l.t, "sockets")(l.server().Sockets(Established))
	var want, verbose []string
	for _, k := range l.sockets {
		want = append(want, fmt.Sprintf("eth0 tcp %s <- %s       ESTABLISHED:ESTABLISHED", pfEnd(k.Local), pfEnd(k.Remote)))
		c := l.counted[k.Remote]
		verbose = append(verbose, fmt.Sprintf("%d:%d pkts, %d:%d bytes", c.original.Packets, c.reply.Packets, c.original.Bytes, c.reply.Bytes))
	}
	l.same("states", lines(l.run("states")), want)
	l.same("states -v", regexp.MustCompile(`\d+:\d+ pkts, \d+:\d+ bytes`).FindAllString(l.run("states", "-v"), -1), verbose)
	if n := len(lines(l.run("states", "-vv"))); n != 4*len(want) {
		l.t.Errorf("states -vv: %d lines", n)
	}
}

// pfEnd is an address and port as pf writes it.
func pfEnd(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return a.String()
	}
	return fmt.Sprintf("%s[%d]", a.Addr(), a.Port())
}

func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return s == "" })
}

// same compares lists whatever their order.
func (l *listings) same(what string, got, want []string) {
	l.t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (l *listings) filters() {
	l.t.Helper()
	for _, tt := range []struct {
		args string
		want int
	}{
		{"--rule web", 6}, {"--rule web --rule tls", 12}, {"--rule closed", 0}, {"--source " + CrowdAddr(IPv4, 2).String(), 3},
		{"--source " + CrowdAddr(IPv6, 0).String() + "/64", 2}, {"--source 0.0.0.0/0", 9}, {"--dest :443", 6},
		{"--dest " + ServerAddr(IPv4).String(), 9}, {"--dest " + pfEnd(netip.AddrPortFrom(ServerAddr(IPv6), 81)), 3},
		{"--state established:established", 18}, {"--state ESTABLISHED:", 18}, {"--state :CLOSING", 0}, {"--state PROXY:DST", 0},
		{"--iface eth0", 18}, {"--iface eth1", 0}, {"--rule web --source 0.0.0.0/0 --dest :443", 0},
	} {
		args := append([]string{"states"}, strings.Fields(tt.args)...)
		if n := len(lines(l.run(args...))); n != tt.want {
			l.t.Errorf("%v: %d states, want %d", args, n, tt.want)
		}
		if n := len(document[statesDocument](l, args...).States); n != tt.want {
			l.t.Errorf("%v --json: %d states, want %d", args, n, tt.want)
		}
	}
	out, err := l.fw.Command(l.ctx, "states", "--rule", "wbe")
	if err == nil || out != "nfqfw: states: no rule \"wbe\"; did you mean web?\n" {
		l.t.Errorf("an unknown rule: %v, %q", err, out)
	}
}

func (l *listings) sources() {
	l.t.Helper()
	var want []string
	for _, f := range Families {
		for i, rest := range []string{
			"states 2, connections 2, rate 0.0/0s", "states 1, connections 1, rate 0.0/0s", "states 3, connections 3, rate 3.0/600s",
		} {
			source, route := CrowdAddr(f, i).String(), "0.0.0.0"
			if f == IPv6 {
				source, route = netip.PrefixFrom(CrowdAddr(f, i), 64).Masked().String(), "::"
			}
			want = append(want, fmt.Sprintf("%s -> %s ( %s )", source, route, rest))
		}
	}
	l.same("sources", lines(l.run("sources")), want)
	doc := document[struct{ Sources []control.Source }](l, "sources")
	for _, s := range doc.Sources {
		held := len(l.sockets.keep(func(k Socket) bool { return s.Source.Contains(k.Remote.Addr()) }))
		if s.Connections != held || s.States != held || s.Age <= 0 || s.Expires != nil {
			l.t.Errorf("%+v, and the server holds %d", s, held)
		}
	}
	if n := strings.Count(l.run("sources", "-v"), ", filter rule 2 (tls)\n"); n != 2 || len(doc.Sources) != len(want) {
		l.t.Errorf("%d sources, %d of them under tls", len(doc.Sources), n)
	}
}

func (l *listings) refusals() {
	l.t.Helper()
	const when = `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d `
	got := lines(l.run("refusals"))
	for _, tt := range []struct {
		source int
		port   uint16
		why    string
	}{
		{0, 80, `max-src-conn 2/2, rule web`},
		{2, 443, `max-src-conn-rate 3/600s \(3 admitted\), rule tls`},
		{3, 81, `max 2/2, rule try \(not enforced\)`},
		{4, 82, `block, rule closed`},
	} {
		for _, f := range Families {
			line := regexp.MustCompile(when + regexp.QuoteMeta(CrowdAddr(f, tt.source).String()) + `\S+ -> ` +
				regexp.QuoteMeta(pfEnd(netip.AddrPortFrom(ServerAddr(f), tt.port))) + " " + tt.why + "$")
			if !slices.ContainsFunc(got, line.MatchString) {
				l.t.Errorf("no refusal is %v, of\n%s", line, strings.Join(got, "\n"))
			}
		}
	}
	if n := len(document[control.Refusals](l, "refusals").Refusals); n != len(got) {
		l.t.Errorf("%d refusals in JSON, %d in text", n, len(got))
	}
	if n := len(lines(l.run("refusals", "--rule", "closed", "--source", "0.0.0.0/0", "--since", "1h"))); n != 1 {
		l.t.Errorf("%d refusals by closed in IPv4, want 1", n)
	}
}

// rules sums what the kernel has counted up by the server's port.
func (l *listings) rules() {
	l.t.Helper()
	sums := make(map[uint16]control.Counter)
	for _, k := range l.sockets {
		c, sum := l.counted[k.Remote], sums[k.Local.Port()]
		sum.Packets += c.original.Packets + c.reply.Packets
		sum.Bytes += c.original.Bytes + c.reply.Bytes
		sums[k.Local.Port()] = sum
	}
	list := document[struct{ Rules []control.Rule }](l, "rules").Rules
	text := l.run("rules", "-v")
	for i, want := range []struct {
		port    uint16
		states  int
		refused string
	}{{80, 6, "max-src-conn"}, {443, 6, "max-src-conn-rate"}, {81, 6, "max"}, {82, 0, "block"}} {
		r := list[i]
		if r.States != want.states || r.Traffic == nil || *r.Traffic != sums[want.port] {
			l.t.Errorf("%+v, traffic %+v, want %+v", r, r.Traffic, sums[want.port])
		}
		if refused := append(r.Refused, r.WouldRefuse...); len(refused) != 1 || refused[0].Reason != want.refused {
			l.t.Errorf("%+v, want refused for %s", r, want.refused)
		}
		line := fmt.Sprintf("Packets: %-8d  Bytes: %-10d  States: %-6d]", r.Traffic.Packets, r.Traffic.Bytes, r.States)
		if !strings.Contains(text, line) || !strings.Contains(text, r.Text+"\n") {
			l.t.Errorf("rules -v:\n%s\nwant %s", text, line)
		}
	}
}

func (l *listings) settings() {
	l.t.Helper()
	if text := l.run("timeouts"); !strings.HasPrefix(text, "tcp.first                   120s\n") || len(lines(text)) != len(document[control.Timeouts](l, "timeouts").Timeouts) {
		l.t.Errorf("timeouts:\n%s", text)
	}
	if text := l.run("memory"); !strings.HasPrefix(text, "states        hard limit   100000\n") || len(lines(text)) != len(document[control.Memory](l, "memory").Limits) {
		l.t.Errorf("memory:\n%s", text)
	}
	info := document[control.Info](l, "info")
	if info.States.Current != len(l.sockets) || info.Sources.Current != 6 {
		l.t.Errorf("info: %d states, %d sources", info.States.Current, info.Sources.Current)
	}
	if text := l.run("info", "-v"); !regexp.MustCompile(`(?m)^  max-src-conn-rate +[1-9]`).MatchString(text[strings.Index(text, "Limit Counters"):]) {
		l.t.Errorf("info -v:\n%s", text)
	}
}

// The counters of many states are read in one dump: they are the same.
func TestCountersOfManyStates(t *testing.T) {
	const n = 1200
	g := guard(t, "keep", places[0], IPv6, n, AcceptOptions{Echo: true})
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(0), To: g.srv.Addr(), N: n, Concurrency: 20})
	if h.Count(Held) != n {
		t.Fatal(h)
	}
	l := &listings{guarded: g}
	l.states()
	if len(l.counted) != n {
		t.Errorf("%d entries, want %d", len(l.counted), n)
	}
}
