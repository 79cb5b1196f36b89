package rules

import (
	"iter"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	for _, tt := range []struct {
		want string
		rule Rule
	}{
		{`pass in proto tcp all flags S/SA keep state label "all"`,
			Rule{Name: "all"}},
		{`pass in quick on eth0 proto tcp from any to any port = http flags S/SA synproxy state label "web"`,
			Rule{Name: "web", Quick: true, On: []string{"eth0"}, Ports: []PortRange{port(80)}, State: Synproxy}},
		{`pass in on eth0 proto tcp from any to 192.0.2.10 port { http, 444, 8000:8010 } flags S/SA synproxy state (max 5000, source-track rule, max-src-states 100, max-src-conn 10, max-src-conn-rate 100/10, max-src-nodes 1000, overload <abusers> flush) label "web"`,
			Rule{
				Name: "web", On: []string{"eth0"}, To: addresses("192.0.2.10/32"), Ports: []PortRange{port(80), port(444), {8000, 8010}},
				State: Synproxy, Max: 5000, MaxSrcConn: 10, MaxSrcConnRate: Rate{100, 10 * time.Second}, MaxSrcStates: 100, MaxSrcNodes: 1000,
				Overload: "abusers", Flush: FlushRule,
			}},
		{`pass in on { eth0, eth1 } proto tcp from { any, ! 203.0.113.0/24, ! 2001:db8::1 } to any port = 8444 flags S/SA adaptive state (backlog 511) label "a b"`,
			Rule{
				Name: "a b", On: []string{"eth0", "eth1"}, From: addresses("0.0.0.0/0", "::/0", "!203.0.113.0/24", "!2001:db8::1/128"),
				Ports: []PortRange{port(8444)}, State: Adaptive, Backlog: 511,
			}},
		{`pass in proto tcp from { 10.0.0.0/8, <friends>, ! <abusers> } to ::/0 flags S/SA keep state (source-track global, source-prefix-v4 24, source-prefix-v6 128, max-src-conn 10, count states, max-src-conn-rate 5/0.5, refuse drop, overload <abusers> flush global) label "far"`,
			Rule{
				Name: "far", From: Addresses{Prefixes: prefixes("10.0.0.0/8"), Tables: []TableRef{{"friends", false}, {"abusers", true}}},
				To: addresses("::/0"), SourceTrack: TrackGlobal, SourcePrefixV4: 24, SourcePrefixV6: 128, MaxSrcConn: 10, Count: CountStates,
				MaxSrcConnRate: Rate{5, 500 * time.Millisecond}, Refuse: RefuseDrop, Overload: "abusers", Flush: FlushGlobal,
			}},
		{`block drop in on ! lo proto tcp all label "in"`,
			Rule{Name: "in", NotOn: []string{"lo"}, Action: Block, Refuse: RefuseDrop}},
		{`pass in on ! { eth0, eth1 } proto tcp all flags S/SA keep state label "others"`,
			Rule{Name: "others", NotOn: []string{"eth0", "eth1"}}},
		{`pass in proto tcp all flags S/SA keep state (source-track rule, max-src-states 1) enforce false label "trial"`,
			Rule{Name: "trial", MaxSrcStates: 1, CountOnly: true}},
		{`pass in proto tcp all flags S/SA keep state (source-track rule, max-src-nodes 1, overload <x>) label "x"`,
			Rule{Name: "x", MaxSrcNodes: 1, Overload: "x"}},
		{`pass in proto tcp from any to any port 1:65535 flags S/SA keep state (max 1) label "range"`,
			Rule{Name: "range", Max: 1, Ports: []PortRange{{1, 65535}}}},
		{`block return-rst in quick proto tcp from <abusers> to any label "blocked"`,
			Rule{Name: "blocked", Action: Block, Quick: true, From: Addresses{Tables: []TableRef{{Name: "abusers"}}}}},
		{`block drop in proto tcp from ! 10.0.0.0/8 to any port = ssh enforce false label "silent"`,
			Rule{Name: "silent", Action: Block, Refuse: RefuseDrop, From: addresses("!10.0.0.0/8"), Ports: []PortRange{port(22)}, CountOnly: true}},
	} {
		if tt.rule.SourcePrefixV4 == 0 {
			tt.rule.SourcePrefixV4, tt.rule.SourcePrefixV6 = 32, 64
		}
		if got := tt.rule.Text(nil); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
}

func TestTextOfTimeouts(t *testing.T) {
	timeouts := iter.Seq2[string, float64](func(yield func(string, float64) bool) {
		_ = yield("tcp.closing", 60) && yield("tcp.closed", 0.25) && yield("adaptive.start", 6000000)
	})
	const options = "tcp.closing 60, tcp.closed 0.25, adaptive.start 6000000"
	for _, tt := range []struct {
		want string
		rule Rule
	}{
		{`pass in proto tcp all flags S/SA keep state (` + options + `) label "r"`, Rule{Name: "r"}},
		{`pass in proto tcp all flags S/SA keep state (max 3, ` + options + `) label "r"`, Rule{Name: "r", Max: 3}},
		{`block return-rst in proto tcp all label "r"`, Rule{Name: "r", Action: Block}},
	} {
		if got := tt.rule.Text(timeouts); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
}

func TestServices(t *testing.T) {
	for _, name := range ServiceNames() {
		p, _ := ServicePort(name)
		canonical, ok := ServiceName(p)
		if again, _ := ServicePort(canonical); !ok || again != p || canonical > name {
			t.Errorf("%s is port %d, which is called %q", name, p, canonical)
		}
	}
	if name, ok := ServiceName(1); ok {
		t.Errorf("port 1 is called %q", name)
	}
	if p, ok := ServicePort("htpp"); ok {
		t.Errorf("htpp is port %d", p)
	}
}
