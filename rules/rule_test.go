package rules

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/packet"
)

var seed = flag.Uint64("seed", 0, "of TestMatchRandom; 0: the time")

// prefixes reads a list as the configuration writes it, "any" left out.
func prefixes(words ...string) Prefixes {
	var l Prefixes
	for _, w := range words {
		text, negated := strings.CutPrefix(w, "!")
		l = append(l, Prefix{Prefix: netip.MustParsePrefix(text), Negated: negated})
	}
	return l
}

func addresses(words ...string) Addresses { return Addresses{Prefixes: prefixes(words...)} }

func port(p uint16) PortRange { return PortRange{p, p} }

// connection reads "198.51.100.7 > 192.0.2.10:80", a connection from any port.
func connection(s string) packet.Tuple {
	src, dst, _ := strings.Cut(s, " > ")
	return packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr(src), 50000), netip.MustParseAddrPort(dst))
}

// A connection that comes in by an interface, and the name of the rule it is
// to have, or none.
type expect struct{ in, conn, want string }

func (e expect) check(t *testing.T, set *Ruleset) {
	t.Helper()
	if got := nameOf(set.Match(e.in, connection(e.conn))); got != e.want {
		t.Errorf("%s, in by %s: rule %s, want %s", e.conn, e.in, got, e.want)
	}
}

const none = "none"

func nameOf(r *Rule) string {
	if r == nil {
		return none
	}
	return r.Name
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		policy string
		rules  []Rule
		expect []expect
	}{
		{"no rules, no match", nil, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", none},
		}},
		{"a rule that names nothing is everybody's", []Rule{{Name: "all"}}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "all"},
			{"", "2001:db8:1::7 > [2001:db8::10]:443", "all"},
		}},
		{"the last rule that matches wins", []Rule{
			{Name: "all"},
			{Name: "web", Ports: []PortRange{port(80)}},
			{Name: "guest", From: addresses("198.51.100.0/24")},
		}, []expect{
			{"eth0", "203.0.113.1 > 192.0.2.10:22", "all"},
			{"eth0", "203.0.113.1 > 192.0.2.10:80", "web"},
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "guest"},
		}},
		{"quick ends the search, but only if the rule matches", []Rule{
			{Name: "first"},
			{Name: "web", Ports: []PortRange{port(80)}, Quick: true},
			{Name: "quick too", Ports: []PortRange{port(80), port(81)}, Quick: true},
			{Name: "last"},
		}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "web"},
			{"eth0", "198.51.100.7 > 192.0.2.10:81", "quick too"},
			{"eth0", "198.51.100.7 > 192.0.2.10:82", "last"},
		}},
		{"the interface is the one it comes in by, by its whole name", []Rule{
			{Name: "outside", On: []string{"eth0", "ppp0"}},
		}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "outside"},
			{"ppp0", "198.51.100.7 > 192.0.2.10:80", "outside"},
			{"eth01", "198.51.100.7 > 192.0.2.10:80", none},
			{"eth", "198.51.100.7 > 192.0.2.10:80", none},
			{"", "198.51.100.7 > 192.0.2.10:80", none},
		}},
		{"from is the client, to is the server", []Rule{
			{Name: "web", From: addresses("198.51.100.0/24"), To: addresses("192.0.2.10/32")},
		}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "web"},
			{"eth0", "192.0.2.10 > 198.51.100.7:80", none},
			{"eth0", "198.51.101.7 > 192.0.2.10:80", none},
			{"eth0", "198.51.100.7 > 192.0.2.11:80", none},
		}},
		{"the port is the server's, both ends of a range included", []Rule{
			{Name: "web", Ports: []PortRange{port(443), {8000, 8010}}},
			{Name: "high", Ports: []PortRange{{65000, 65535}}},
			{Name: "low", Ports: []PortRange{{0, 1}}},
		}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:443", "web"},
			{"eth0", "198.51.100.7 > 192.0.2.10:7999", none},
			{"eth0", "198.51.100.7 > 192.0.2.10:8000", "web"},
			{"eth0", "198.51.100.7 > 192.0.2.10:8010", "web"},
			{"eth0", "198.51.100.7 > 192.0.2.10:8011", none},
			{"eth0", "198.51.100.7 > 192.0.2.10:50000", none}, // the client's own port
			{"eth0", "198.51.100.7 > 192.0.2.10:65535", "high"},
			{"eth0", "198.51.100.7 > 192.0.2.10:0", "low"},
		}},
		{"all that a rule names must fit", []Rule{
			{Name: "web", On: []string{"eth0"}, From: addresses("198.51.100.0/24"),
				To: addresses("192.0.2.10/32"), Ports: []PortRange{port(80)}},
		}, []expect{
			{"eth0", "198.51.100.7 > 192.0.2.10:80", "web"},
			{"eth1", "198.51.100.7 > 192.0.2.10:80", none},
			{"eth0", "203.0.113.1 > 192.0.2.10:80", none},
			{"eth0", "198.51.100.7 > 192.0.2.11:80", none},
			{"eth0", "198.51.100.7 > 192.0.2.10:81", none},
		}},
		{"an IPv4 address mapped into IPv6 is the IPv4 address", []Rule{
			{Name: "six", From: addresses("::/0")},
			{Name: "four", From: addresses("198.51.100.0/24")},
		}, []expect{
			{"eth0", "::ffff:198.51.100.7 > [::ffff:192.0.2.10]:80", "four"},
			{"eth0", "::ffff:203.0.113.1 > [::ffff:192.0.2.10]:80", none},
			{"eth0", "2001:db8:1::7 > [2001:db8::10]:80", "six"},
		}},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			set := New(tt.rules, nil)
			for _, e := range tt.expect {
				e.check(t, set)
			}
		})
	}
}

func TestPrefixes(t *testing.T) {
	for _, tt := range []struct {
		policy  string
		list    Prefixes
		in, out string
	}{
		{"an empty list holds everybody", nil,
			"192.0.2.1 2001:db8::1", ""},
		{"prefixes are alternatives", prefixes("192.0.2.0/24", "2001:db8::/32"),
			"192.0.2.0 192.0.2.255 2001:db8:ffff::1", "192.0.3.0 192.0.1.255 2001:db9::"},
		{"the longest prefix decides", prefixes("10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24"),
			"10.0.0.1 10.2.0.1 10.1.2.3", "10.1.0.1 10.1.3.1 11.0.0.1"},
		{"wherever it stands", prefixes("10.1.2.0/24", "!10.1.0.0/16", "10.0.0.0/8"),
			"10.0.0.1 10.2.0.1 10.1.2.3", "10.1.0.1 10.1.3.1 11.0.0.1"},
		{"negated prefixes only hold all others", prefixes("!192.0.2.0/24", "!2001:db8::/32"),
			"192.0.3.1 2001:db9::1", "192.0.2.1 2001:db8::1"},
		{"of either family", prefixes("!192.0.2.0/24"),
			"192.0.3.1 2001:db8::1", "192.0.2.1"},
		{"one plain prefix, and others are out", prefixes("192.0.2.0/24", "!192.0.2.1/32"),
			"192.0.2.2", "192.0.2.1 192.0.3.1 2001:db8::1"},
		{"any but one", prefixes("0.0.0.0/0", "::/0", "!192.0.2.1/32"),
			"192.0.2.2 2001:db8::1", "192.0.2.1"},
		{"a long IPv6 prefix says nothing of IPv4", prefixes("192.0.2.0/24", "!::ffff:0:0/96", "!::/0"),
			"192.0.2.1", "192.0.3.1 2001:db8::1"},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			holds(t, tt.list, tt.in, true)
			holds(t, tt.list, tt.out, false)
		})
	}
}

func holds(t *testing.T, l Prefixes, addresses string, want bool) {
	t.Helper()
	for _, a := range strings.Fields(addresses) {
		if got := l.Contains(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s in the list: %v, want %v", a, got, want)
		}
	}
}

func TestSource(t *testing.T) {
	grouped := Rule{SourcePrefixV4: 24, SourcePrefixV6: 64}
	single := Rule{SourcePrefixV4: 32, SourcePrefixV6: 128}
	for _, tt := range []struct {
		policy       string
		rule         Rule
		client, want string
	}{
		{"IPv4 by itself", single, "198.51.100.7", "198.51.100.7/32"},
		{"IPv4 by its network", grouped, "198.51.100.7", "198.51.100.0/24"},
		{"IPv6 by itself", single, "2001:db8:1:2:3::7", "2001:db8:1:2:3::7/128"},
		{"IPv6 by its network", grouped, "2001:db8:1:2:3::7", "2001:db8:1:2::/64"},
		{"mapped IPv4 is IPv4", grouped, "::ffff:198.51.100.7", "198.51.100.0/24"},
		{"the widest groups", Rule{SourcePrefixV4: 1, SourcePrefixV6: 1}, "198.51.100.7", "128.0.0.0/1"},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			got := tt.rule.Source(packet.AddrFrom(netip.MustParseAddr(tt.client)))
			if got != netip.MustParsePrefix(tt.want) {
				t.Errorf("source of %s: %s, want %s", tt.client, got, tt.want)
			}
		})
	}
}

func TestCountsServer(t *testing.T) {
	for count, want := range map[Count]bool{CountServerEstablished: true, CountStates: false} {
		if got := (&Rule{Count: count}).CountsServer(); got != want {
			t.Errorf("count %s: %v, want %v", count, got, want)
		}
	}
}

// The words are the configuration's; a value past the last must not stop a listing.
func TestWords(t *testing.T) {
	sameWords(t, Words[Action](), Pass, Block)
	sameWords(t, Words[State](), Keep, Synproxy, Adaptive)
	sameWords(t, Words[Track](), TrackRule, TrackGlobal)
	sameWords(t, Words[Count](), CountServerEstablished, CountStates)
	sameWords(t, Words[Refuse](), RefuseReset, RefuseDrop)
	sameWords(t, Words[Flush](), FlushNone, FlushRule, FlushGlobal)
	if got := Action(200).String(); got != "unknown" {
		t.Errorf("Action(200) = %s", got)
	}
}

func sameWords[T fmt.Stringer](t *testing.T, words []string, values ...T) {
	t.Helper()
	var got []string
	for _, v := range values {
		got = append(got, v.String())
	}
	if !slices.Equal(got, words) {
		t.Errorf("values are called %q, words are %q", got, words)
	}
}

// Match against a matcher that is slow and obvious, on rules and connections
// from a world so small that they meet.
func TestMatchRandom(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again with: -args -seed %d", *seed)
	w := world{rand.New(rand.NewPCG(*seed, 0))}
	hits, total := 0, 0
	for range 2000 {
		list := w.rules()
		set := New(list, nil)
		for range 10 {
			in, c := w.device(), w.connection()
			got, want := nameOf(set.Match(in, c)), nameOf(slowMatch(list, in, c))
			if got != want {
				t.Fatalf("%v, in by %s: rule %s, want %s, of\n%s", c, in, got, want, listing(list))
			}
			total++
			if want != none {
				hits++
			}
		}
	}
	if hits < total/4 || hits > total*3/4 {
		t.Errorf("%d of %d connections had a rule: the world is too large or too small", hits, total)
	}
}

func listing(list []Rule) string {
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "%s: quick %v, on %v, from %v, to %v, ports %v\n", r.Name, r.Quick, r.On, r.From, r.To, r.Ports)
	}
	return b.String()
}

// slowMatch lists all rules that match, then chooses.
func slowMatch(list []Rule, in string, c packet.Tuple) *Rule {
	var matching []*Rule
	for i := range list {
		r := &list[i]
		if slowOn(r.On, in) && slowPort(r.Ports, int(c.DstPort)) && slowIn(r.From.Prefixes, c.Src) && slowIn(r.To.Prefixes, c.Dst) {
			matching = append(matching, r)
		}
	}
	for _, r := range matching {
		if r.Quick {
			return r
		}
	}
	if len(matching) == 0 {
		return nil
	}
	return matching[len(matching)-1]
}

func slowOn(on []string, in string) bool {
	return on == nil || strings.Contains(" "+strings.Join(on, " ")+" ", " "+in+" ")
}

func slowPort(ranges []PortRange, port int) bool {
	named := make(map[int]bool)
	for _, r := range ranges {
		for p := int(r.First); p <= int(r.Last); p++ {
			named[p] = true
		}
	}
	return named[port] || len(named) == 0
}

// slowIn compares bits as text: of the prefixes that an address begins with,
// the longest text decides.
func slowIn(l Prefixes, a packet.Addr) bool {
	address := bitText(a.Netip())
	best, in, plain := "", false, false
	for _, p := range l {
		text := bitText(p.Addr())[:len("4:")+p.Bits()]
		if strings.HasPrefix(address, text) && len(text) > len(best) {
			best, in = text, !p.Negated
		}
		plain = plain || !p.Negated
	}
	if best == "" {
		return !plain
	}
	return in
}

// bitText is "4:" or "6:", then the address in zeros and ones.
func bitText(a netip.Addr) string {
	family := "6:"
	if a.Is4() {
		family = "4:"
	}
	var b strings.Builder
	for _, octet := range a.AsSlice() {
		fmt.Fprintf(&b, "%08b", octet)
	}
	return family + b.String()
}

// A world makes rules and connections out of few interfaces, ports and addresses.
type world struct{ *rand.Rand }

func (w world) rules() []Rule {
	list := make([]Rule, w.IntN(6))
	for i := range list {
		list[i] = Rule{
			Name: fmt.Sprint("r", i+1), Quick: w.IntN(4) == 0,
			On: few(w, 2, w.device), Ports: few(w, 3, w.ports), From: Addresses{Prefixes: w.prefixes()}, To: Addresses{Prefixes: w.prefixes()},
		}
	}
	return list
}

// few makes up to n of something, often none.
func few[T any](w world, n int, one func() T) []T {
	var l []T
	for range max(0, w.IntN(2*n+1)-n) {
		l = append(l, one())
	}
	return l
}

func (w world) device() string { return []string{"eth0", "eth1", "eth10"}[w.IntN(3)] }

func (w world) ports() PortRange {
	first := uint16(w.IntN(8))
	return PortRange{first, first + uint16(w.IntN(3))}
}

func (w world) address() netip.Addr {
	text := []string{"10.0.0.0", "10.0.1.0", "2001:db8::", "2001:db8::1:0"}[w.IntN(4)]
	octets := netip.MustParseAddr(text).AsSlice()
	octets[len(octets)-1] = byte(w.IntN(8))
	a, _ := netip.AddrFromSlice(octets)
	return a
}

// prefixes never has one prefix twice: it could be in and out.
func (w world) prefixes() Prefixes {
	seen := make(map[netip.Prefix]bool)
	var l Prefixes
	for _, p := range few(w, 5, w.prefix) {
		if !seen[p.Prefix] {
			seen[p.Prefix] = true
			l = append(l, p)
		}
	}
	return l
}

// prefix is mostly a long one; some are left with bits of a host.
func (w world) prefix() Prefix {
	a := w.address()
	short := []int{0, 1, 2, 3, 4, 8, 12, a.BitLen()}[w.IntN(8)]
	p := netip.PrefixFrom(a, a.BitLen()-short).Masked()
	return Prefix{Prefix: p, Negated: w.IntN(3) == 0}
}

func (w world) connection() packet.Tuple {
	return packet.TupleFrom(netip.AddrPortFrom(w.address(), uint16(w.IntN(8))), netip.AddrPortFrom(w.address(), uint16(w.IntN(10))))
}

// services is a ruleset of n web servers, each with its own exception.
func services(n int) []Rule {
	list := make([]Rule, n)
	for i := range list {
		server := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		list[i] = Rule{
			Name: fmt.Sprint("web", i), On: []string{"eth0"}, From: addresses("!10.0.0.0/8"),
			To: Addresses{Prefixes: Prefixes{{Prefix: netip.PrefixFrom(server, 32)}}}, Ports: []PortRange{port(80), port(443)},
		}
	}
	return list
}

// All rules are looked at, for the last one could win.
func BenchmarkMatch(b *testing.B) {
	c := connection("198.51.100.7 > 192.0.0.5:443")
	for _, n := range []int{10, 100, 1000} {
		set := New(services(n), nil)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if set.Match("eth0", c) == nil {
					b.Fatal("no rule")
				}
			}
		})
	}
}

// A match is made for each new connection, of a flood too.
func TestMatchDoesNotAllocate(t *testing.T) {
	set, c := New(services(100), nil), connection("198.51.100.7 > 192.0.0.5:443")
	if n := testing.AllocsPerRun(100, func() { set.Match("eth0", c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
