package daemon

import (
	"net/netip"
	"testing"

	"nfqfw/internal/backlog"
	"nfqfw/rules"
)

func TestSmallestBacklog(t *testing.T) {
	local := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}
	to := func(prefixes ...string) (list rules.Addresses) {
		for _, p := range prefixes {
			list.Prefixes = append(list.Prefixes, rules.Prefix{Prefix: netip.MustParsePrefix(p)})
		}
		return list
	}
	web := []rules.PortRange{{First: 80, Last: 80}}
	for _, tt := range []struct {
		name      string
		rule      rules.Rule
		listeners []backlog.Listener
		want      int
	}{
		{"none", rules.Rule{Ports: web}, nil, 0},
		{"any address", rules.Rule{Ports: web}, listening("0.0.0.0:80", 511), 511},
		{"another port", rules.Rule{Ports: web}, listening("0.0.0.0:81", 511), 0},
		{"the smallest", rules.Rule{}, append(listening("0.0.0.0:80", 511), listening("192.0.2.1:81", 128)...), 128},
		{"an address of the rule's", rules.Rule{To: to("192.0.2.0/24")}, listening("192.0.2.1:80", 5), 5},
		{"another's", rules.Rule{To: to("192.0.2.0/24")}, listening("198.51.100.1:80", 5), 0},
		{"a server elsewhere", rules.Rule{To: to("203.0.113.10/32")}, listening("0.0.0.0:80", 5), 0},
		{"IPv6 for IPv4", rules.Rule{To: to("192.0.2.1/32")}, listening("[::]:80", 7), 7},
		{"IPv6 only", rules.Rule{To: to("192.0.2.1/32")}, []backlog.Listener{{Addr: netip.MustParseAddrPort("[::]:80"), V6Only: true, Backlog: 7}}, 0},
		{"IPv4 is no IPv6", rules.Rule{To: to("2001:db8::1/128")}, listening("0.0.0.0:80", 7), 0},
		{"loopback", rules.Rule{}, listening("127.0.0.1:80", 7), 0},
		{"no queue at all", rules.Rule{}, listening("0.0.0.0:80", 0), 1},
	} {
		if got := smallestBacklog(&tt.rule, tt.listeners, local); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func listening(at string, n int) []backlog.Listener {
	return []backlog.Listener{{Addr: netip.MustParseAddrPort(at), Backlog: n}}
}
