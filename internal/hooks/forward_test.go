package hooks

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfqfw/rules"
)

// own are the addresses of the machine that the rules in testdata/nat are from.
var own = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("2001:db8:f::1/128")}

// brief shows a forward less its text: "IPv4 [eth0] 192.0.2.1/32 80 > 10.0.0.2/32 8080".
func (f *Forward) brief() string {
	where := map[bool]string{true: "local"}[f.Local] + strings.Join(f.In, ",")
	return strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s > %s %s", f.Family, where,
		briefPrefixes(f.To), briefPorts(f.Ports), briefPrefixes(f.NewTo), briefPorts(f.NewPorts))), " ")
}

func briefPrefixes(list []netip.Prefix) string {
	var words []string
	for _, p := range list {
		word := "any"
		if p.IsValid() {
			word = p.String()
		}
		words = append(words, word)
	}
	return strings.Join(words, ",")
}

func briefPorts(list []rules.PortRange) string {
	var words []string
	for _, p := range list {
		words = append(words, fmt.Sprintf("%d-%d", p.First, p.Last))
	}
	return strings.Join(words, ",")
}

func natFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "nat", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func checkForwards(t *testing.T, got []Forward, want ...string) {
	t.Helper()
	var brief []string
	for i := range got {
		brief = append(brief, got[i].brief())
	}
	if diff := cmp.Diff(want, brief); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseNAT(t *testing.T) {
	got := parseNAT(natFile(t, "iptables.txt"), IPv4, own)
	checkForwards(t, got,
		"IPv4 127.0.0.1/32,203.0.113.1/32 8080-8080 > 172.17.0.2/32 80-80",
		"IPv4 10.96.0.1/32 443-443 > 10.1.1.1/32 8443-8443",
		"IPv4 wan* any 80-80,443-443,8000-8010 > 127.0.0.1/32,203.0.113.1/32 8081-8081",
		"IPv4 192.0.2.0/24 > 10.0.0.0/24",
		"IPv4 192.0.2.1/32 > 10.0.0.0/28 80-90",
		"IPv4 any > 99-99",
		"IPv4 local 127.0.0.1/32,203.0.113.1/32 8080-8080 > 172.17.0.2/32 80-80",
	)
	if want := `-A PREROUTING -i wan+ -p tcp -m multiport --dports 80,443,8000:8010 -m comment --comment "a \"b\" -j DNAT" -j REDIRECT --to-ports 8081`; got[2].Rule != want {
		t.Errorf("the rule reads %s, want %s", got[2].Rule, want)
	}
	checkForwards(t, parseNAT(natFile(t, "ip6tables.txt"), IPv6, own),
		"IPv6 2001:db8::1/128 80-80 > 2001:db8::2/128 8080-8080",
		"IPv6 any > 2001:db8::2/128",
		"IPv6 any > 2001:db8::2/127 80-80",
		"IPv6 2001:db8:1::/64 > 2001:db8:2::/64",
	)
}

func TestParseRuleset(t *testing.T) {
	const own4, own6 = "127.0.0.1/32,203.0.113.1/32", "2001:db8:f::1/128"
	got := parseRuleset(natFile(t, "nft.txt"), own)
	checkForwards(t, got,
		"IPv4 eth0 any 80-80,443-443 > 10.0.0.2/32",
		"IPv4 lo any > "+own4+" 8080-8080", // the set's elements are not looked up
		"IPv4 192.0.2.1/32 8080-8080 > "+own4+" 80-80",
		"IPv4 eth0,wan1 any 53-53 > "+own4,
		"IPv4 any 22-22 > 10.0.0.7/32 80-80",
		"IPv4 any > any",
		"IPv4 any > any",
		"IPv4 "+own4+" 1000-2000 > 10.0.0.4/31 1-9",
		"IPv4 wan* 192.0.2.0/29,192.0.2.128/25 > 10.0.0.1/32",
		"IPv4 any > "+own4+" 81-81",
		"IPv4 local any 80-80 > "+own4+" 8080-8080",
		"IPv6 lo any > "+own6+" 8080-8080",
		"IPv6 eth0,wan1 any 53-53 > "+own6,
		"IPv6 any > 2001:db8::7/128 8080-8080",
		"IPv6 2001:db8::/125 80-80 > 2001:db8::2/127 8080-8080",
		"IPv6 local any 80-80 > "+own6+" 8080-8080",
	)
	// What nft shows of iptables' own rules is known already.
	const shown = "table ip nat {\n\tchain D {\n\t\tiifname != \"docker0\" tcp dport 8080 counter packets 0 bytes 0 dnat to 172.17.0.2:80\n\t}\n" +
		"\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t\tfib daddr type local counter packets 0 bytes 0 jump D\n\t}\n}\n"
	saved := parseNAT(natFile(t, "iptables.txt"), IPv4, own)
	if got := parseRuleset(shown, own); len(got) != 1 || !got[0].same(saved[0]) {
		t.Errorf("got %+v, want what %+v does", got, saved[0])
	}
}

func TestParseRulesetSkips(t *testing.T) {
	for _, rule := range []string{
		"udp dport 80 redirect to :8080", "ip protocol udp redirect", "ip6 nexthdr udp redirect", "meta l4proto { udp, icmp } redirect",
		"ct status dnat accept", "tcp dport 80 accept", "tcp dport 80 jump nowhere", "tcp dport 80 counter comment \"redirect to :8080\"",
	} {
		out := "table inet t {\n\tchain c {\n\t\ttype nat hook prerouting priority 0; policy accept;\n\t\t" + rule + "\n\t}\n}\n"
		if got := parseRuleset(out, own); len(got) > 0 {
			t.Errorf("%s: %s", rule, got[0].brief())
		}
	}
	// A chain that leads to itself, which the kernel refuses, has an end.
	const loop = "table ip t {\n\tchain c {\n\t\ttype nat hook prerouting priority 0; policy accept;\n\t\tjump c\n\t\tredirect\n\t}\n}\n"
	if got := parseRuleset(loop, own); len(got) != 1 {
		t.Errorf("%d forwards", len(got))
	}
	for _, table := range []string{"bridge", "arp", "netdev"} {
		if got := parseRuleset(strings.Replace(loop, "ip", table, 1), own); len(got) > 0 {
			t.Errorf("%s: %s", table, got[0].brief())
		}
	}
}

func TestConflicts(t *testing.T) {
	const advice = "; nfqfw cannot follow a connection through DNAT: run it on the server, or keep the rule and the forward apart"
	web := rules.Rule{Number: 1, Name: "web", To: in("192.0.2.1/32"), Ports: ports(80)}
	with := func(change func(*rules.Rule)) rules.Rule { r := web; change(&r); return r }
	for _, tt := range []struct {
		name    string
		forward string // of iptables, less the chain
		rule    rules.Rule
		want    string // where; empty: nowhere
	}{
		{"as the client sees it", "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80", web, "192.0.2.1:80 is forwarded by"},
		{"as the server sees it", "-d 203.0.113.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 192.0.2.1:80", web, "192.0.2.1:80 is where the nat table forwards to"},
		{"another port", "-d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.2:80", web, ""},
		{"another address", "-d 192.0.2.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80", web, ""},
		{"the port stays", "-d 192.0.2.2/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 192.0.2.1", web, "192.0.2.1:80 is where"},
		{"the address stays", "-d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination :80", web, "192.0.2.1:80 is where"},
		{"all of TCP", "-p tcp -j DNAT --to-destination 10.0.0.2", web, "192.0.2.1:80 is forwarded by"},
		{"all there is", "-j DNAT --to-destination 10.0.0.2", web, "192.0.2.1:80 is forwarded by"},
		{"UDP", "-p udp -j DNAT --to-destination 10.0.0.2", web, ""},
		{"a prefix of the rule's", "-d 192.0.2.1/32 -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.To, r.Ports = in("192.0.2.0/24"), nil }), "192.0.2.1 is forwarded by"},
		{"any address and port", "-j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.To, r.Ports = in(), nil }), "every port is forwarded by"},
		{"a range of ports", "-p tcp -m tcp --dport 8000:8010 -j REDIRECT", with(func(r *rules.Rule) { r.To, r.Ports = in(), []rules.PortRange{{First: 8005, Last: 9000}} }), "ports 8005-8010 is forwarded by"},
		{"a redirect to the rule's port", "-p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80", with(func(r *rules.Rule) { r.To = in() }), "127.0.0.1:80 is where"},
		{"a redirect, and a server elsewhere", "-p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 80", web, ""},
		{"of the other IP", "-p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.To = in("2001:db8::1/128") }), ""},
		{"by another interface", "-i eth1 -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.On = []string{"eth0", "eth2"} }), ""},
		{"by one of its interfaces", "-i eth+ -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.On = []string{"wan", "eth2"} }), "192.0.2.1:80 is forwarded by"},
		{"by all but its own", "-i eth1 -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.NotOn = []string{"eth0", "eth1"} }), ""},
		{"by one of all others", "-i eth1 -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.NotOn = []string{"eth0"} }), "192.0.2.1:80 is forwarded by"},
		{"not by one interface", "! -i eth0 -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.On = []string{"eth0"} }), "192.0.2.1:80 is forwarded by"},
		{"blocked before", "-d 192.0.2.1/32 -p tcp -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.Action = rules.Block }), ""},
		{"all blocked", "-d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2", with(func(r *rules.Rule) { r.Action, r.To, r.Ports = rules.Block, in(), nil }), ""},
		{"to be blocked behind", "-d 192.0.2.2/32 -p tcp -j DNAT --to-destination 192.0.2.1", with(func(r *rules.Rule) { r.Action = rules.Block }), "192.0.2.1:80 is where"},
	} {
		text := "-A PREROUTING " + tt.forward
		list := parseNAT("*nat\n"+text+"\nCOMMIT\n", IPv4, own)
		var want []string
		if tt.want != "" {
			want = []string{fmt.Sprintf("rule 1 (\"web\"): port: %s", tt.want)}
		}
		var got []string
		for _, err := range Conflicts(append(list, list...), []rules.Rule{tt.rule}) {
			start, ok := strings.CutSuffix(err.Error(), fmt.Sprintf(" (%q)", text)+advice)
			if !ok {
				t.Errorf("%s: %v", tt.name, err)
			}
			got = append(got, strings.TrimSuffix(start, " the nat table"))
		}
		for i := range want {
			want[i] = strings.TrimSuffix(want[i], " the nat table")
		}
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

// Docker forwards ports of its own to containers, which disturbs no other.
func TestConflictsWithDocker(t *testing.T) {
	list := parseNAT(natFile(t, "iptables.txt"), IPv4, own)
	docker := slices.DeleteFunc(list, func(f Forward) bool { return !strings.HasPrefix(f.Rule, "-A DOCKER") })
	if len(docker) != 2 {
		t.Fatalf("%d forwards of Docker's", len(docker))
	}
	for _, tt := range []struct {
		rule rules.Rule
		want int
	}{
		{rules.Rule{Ports: ports(443, 22)}, 0},
		{rules.Rule{Ports: ports(80), To: in("203.0.113.1/32", "192.0.2.1/32")}, 0},
		{rules.Rule{Ports: ports(8080), To: in("192.0.2.1/32")}, 0}, // a server behind this machine
		{rules.Rule{Ports: ports(8080)}, 1},
		{rules.Rule{Ports: ports(80), To: in("172.17.0.0/16")}, 1},
		{rules.Rule{Ports: ports(8080), To: in("203.0.113.1/32"), On: []string{"eth0"}}, 1},
	} {
		if got := Conflicts(docker, []rules.Rule{tt.rule}); len(got) != tt.want {
			t.Errorf("%+v: %v, want %d", tt.rule, got, tt.want)
		}
	}
}

func FuzzForwards(f *testing.F) {
	for _, name := range []string{"iptables.txt", "ip6tables.txt", "nft.txt"} {
		f.Add(natFile(f, name))
	}
	f.Fuzz(func(t *testing.T, out string) {
		list := parseRuleset(out, own)
		for _, family := range Families {
			list = append(list, parseNAT(out, family, own)...)
		}
		for i := range list {
			if len(list[i].To) == 0 {
				t.Errorf("%s: forwards nothing", list[i].Rule)
			}
		}
		Conflicts(list, []rules.Rule{{}})
	})
}
