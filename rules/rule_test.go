package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfqfw/internal/packet"
)

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

// What a rule's addresses are, with tables: each sentence of the doc of Addresses.
func TestAddresses(t *testing.T) {
	tables := map[string]Table{
		"abusers": fakeTable{netip.MustParseAddr("203.0.113.1"): true, netip.MustParseAddr("2001:db8::bad"): true},
		"friends": fakeTable{netip.MustParseAddr("203.0.113.1"): true, netip.MustParseAddr("10.0.0.1"): true},
	}
	lookup := func(name string) Table { return tables[name] }
	for _, tt := range []struct {
		policy   string
		prefixes Prefixes
		tables   string
		in, out  string
	}{
		{"the zero value holds every address", nil, "",
			"203.0.113.1 10.0.0.1 2001:db8::1", ""},
		{"a table holds its addresses only", nil, "abusers",
			"203.0.113.1 2001:db8::bad", "203.0.113.2 2001:db8::1"},
		{"tables are alternatives", nil, "abusers friends",
			"203.0.113.1 10.0.0.1", "203.0.113.2"},
		{"prefixes and tables are alternatives", prefixes("192.0.2.0/24"), "abusers",
			"192.0.2.1 203.0.113.1", "10.0.0.1 2001:db8::1"},
		{"a negated prefix takes out what a table holds", prefixes("!203.0.113.0/24"), "abusers",
			"2001:db8::bad", "203.0.113.1 10.0.0.1"},
		{"a longer prefix puts it in again", prefixes("!203.0.113.0/24", "203.0.113.1/32"), "abusers",
			"203.0.113.1", "203.0.113.2"},
		{"a negated table only holds all others", nil, "!abusers",
			"203.0.113.2 10.0.0.1 2001:db8::1", "203.0.113.1 2001:db8::bad"},
		{"a negated table takes an address out, whatever else names it", prefixes("203.0.113.1/32", "10.0.0.0/8"), "friends !abusers",
			"10.0.0.1 10.0.0.2", "203.0.113.1 192.0.2.1"},
		{"negated prefixes and tables only hold all others", prefixes("!10.0.0.0/8"), "!abusers",
			"192.0.2.1 2001:db8::1", "10.0.0.1 203.0.113.1"},
		{"a name without a table holds no address", nil, "nobody",
			"", "203.0.113.1 10.0.0.1"},
		{"and takes none out", nil, "!nobody",
			"203.0.113.1 10.0.0.1", ""},
	} {
		t.Run(tt.policy, func(t *testing.T) {
			a := Addresses{Prefixes: tt.prefixes}
			for _, name := range strings.Fields(tt.tables) {
				name, negated := strings.CutPrefix(name, "!")
				a.Tables = append(a.Tables, TableRef{name, negated})
			}
			matches(t, a, lookup, tt.in, "r")
			matches(t, a, lookup, tt.out, none)
		})
	}
}

// matches checks which rule connections have, if one is from such addresses, and if
// it is to them.
func matches(t *testing.T, a Addresses, lookup func(string) Table, list, want string) {
	t.Helper()
	from, to := New([]Rule{{Name: "r", From: a}}, lookup), New([]Rule{{Name: "r", To: a}}, lookup)
	other := netip.MustParseAddrPort("198.51.100.7:1")
	for _, text := range strings.Fields(list) {
		one := netip.AddrPortFrom(netip.MustParseAddr(text), 1)
		if got := nameOf(from.Match("eth0", packet.TupleFrom(one, other))); got != want {
			t.Errorf("from %s: rule %s, want %s", text, got, want)
		}
		if got := nameOf(to.Match("eth0", packet.TupleFrom(other, one))); got != want {
			t.Errorf("to %s: rule %s, want %s", text, got, want)
		}
	}
}

// A block rule that only counts matches, and another one decides.
func TestMatchEnforced(t *testing.T) {
	list := []Rule{{Name: "pass"}, {Name: "trial", Action: Block, CountOnly: true}, {Name: "quick", Action: Block, CountOnly: true, Quick: true, Ports: []PortRange{port(80)}}}
	for conn, matches := range map[string]string{
		"198.51.100.7 > 192.0.2.10:80": "quick", "198.51.100.7 > 192.0.2.10:81": "trial",
	} {
		set := New(list, nil)
		if got := nameOf(set.Match("eth0", connection(conn))); got != matches {
			t.Errorf("%s: matches %s, want %s", conn, got, matches)
		}
		if got := nameOf(set.MatchEnforced("eth0", connection(conn))); got != "pass" {
			t.Errorf("%s: %s decides, want pass", conn, got)
		}
		if got := nameOf(New(list[1:], nil).MatchEnforced("eth0", connection(conn))); got != none {
			t.Errorf("%s: without a rule that does more than count: %s decides, want none", conn, got)
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
