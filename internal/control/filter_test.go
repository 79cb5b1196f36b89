package control

import (
	"encoding/json"
	"net/netip"
	"testing"

	"nfqfw/conntrack"
)

func TestStatePatternMatches(t *testing.T) {
	const proxied, closed, synSent, established = conntrack.ProxyDst, conntrack.Closed, conntrack.SynSent, conntrack.Established
	for _, tt := range []struct {
		pattern        string
		server, client conntrack.PeerState
		want           bool
	}{
		{"ESTABLISHED:ESTABLISHED", established, established, true},
		{"ESTABLISHED:ESTABLISHED", established, conntrack.Closing, false},
		{"established:", established, conntrack.Closing, true},
		{"established:", synSent, established, false},
		{":established", synSent, established, true},
		{":established", established, synSent, false},
		{"PROXY:DST", synSent, proxied, true},
		{"PROXY:DST", closed, conntrack.ProxySrc, false},
		{"PROXY:SRC", closed, conntrack.ProxySrc, true},
		{"SYN_SENT:", synSent, proxied, false}, // that is not what is shown
		{"PROXY:DST", synSent, established, false},
	} {
		p, err := ParseStatePattern(tt.pattern)
		must(t, err)
		if got := p.Matches(tt.server, tt.client); got != tt.want {
			t.Errorf("%s matches %v:%v: %v", tt.pattern, tt.server, tt.client, got)
		}
	}
	if !(StatePattern{}).Matches(synSent, proxied) {
		t.Error("the zero pattern matches not all")
	}
}

func TestEndpointHolds(t *testing.T) {
	for _, tt := range []struct {
		endpoint, in, out string
	}{
		{"192.0.2.10", "192.0.2.10:80", "192.0.2.11:80"},
		{"192.0.2.10:80", "192.0.2.10:80", "192.0.2.10:81"},
		{"192.0.2.0/24:80", "192.0.2.255:80", "192.0.3.0:80"},
		{":80", "[2001:db8::10]:80", "192.0.2.10:8"},
		{"[2001:db8::/32]:443", "[2001:db8::10]:443", "[2001:db9::]:443"},
		{"2001:db8::10[443]", "[2001:db8::10]:443", "[2001:db8::10]:44"},
		{"::/0", "[2001:db8::10]:1", "192.0.2.10:1"},
	} {
		e, err := ParseEndpoint(tt.endpoint)
		must(t, err)
		if !e.Holds(netip.MustParseAddrPort(tt.in)) || e.Holds(netip.MustParseAddrPort(tt.out)) {
			t.Errorf("%s: %+v", tt.endpoint, e)
		}
	}
}

// Whatever is taken as a filter arrives at the daemon as it was meant.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{"192.0.2.10:80", "[2001:db8::/32]:443", "2001:db8::10[80]", ":80", "ESTABLISHED:", "proxy:dst", "[", "]", "[]:", "::ffff:1.2.3.4", "fe80::1%x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var sent, got StateFilter
		if e, err := ParseEndpoint(text); err == nil {
			sent.Dest = e
		}
		if n, err := ParseNetwork(text); err == nil {
			sent.Source = n
		}
		if p, err := ParseStatePattern(text); err == nil {
			sent.State = p
		}
		raw, err := json.Marshal(&sent)
		must(t, err)
		must(t, json.Unmarshal(raw, &got))
		if got.Dest != sent.Dest || got.Source != sent.Source || got.State != sent.State {
			t.Errorf("%q: sent %+v, got %+v", text, sent, got)
		}
	})
}
