package main

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"nfqfw/internal/config"
	"nfqfw/internal/pfconf"
	"nfqfw/rules"
)

func TestPrefixOf(t *testing.T) {
	for _, tt := range []struct{ addr, modifiers, want string }{
		{"192.0.2.10/24", "", "192.0.2.10/32"},
		{"192.0.2.10/24", "0", "192.0.2.10/32"},
		{"192.0.2.10/24", "network", "192.0.2.0/24"},
		{"2001:db8::10/64", "", "2001:db8::10/128"},
		{"2001:db8::10/64", "network:0", "2001:db8::/64"},
		{"192.0.2.10/24", "broadcast", ""},
		{"127.0.0.1/8", "", ""},
		{"::1/128", "network", ""},
	} {
		ip, network, err := net.ParseCIDR(tt.addr)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if p, ok := prefixOf(&net.IPNet{IP: ip, Mask: network.Mask}, tt.modifiers); ok {
			got = p.String()
		}
		if got != tt.want {
			t.Errorf("%s:%s is %q, want %q", tt.addr, tt.modifiers, got, tt.want)
		}
	}
}

// Whatever addresses this machine has, its own are among those of self.
func TestFillTables(t *testing.T) {
	c := &config.Config{Tables: []config.Table{{Name: "self-addresses"}, {Name: "none0-addresses"}}}
	got := fillTables(c, []pfconf.Addresses{
		{Line: 3, Table: "none0-addresses", Of: "none0"}, {Line: 4, Table: "self-addresses", Of: "self"},
	})
	const none = "line 3: no equivalent: the addresses of none0; write them into entries of [table.none0-addresses]"
	if len(got) != 2 || got[0] != none || len(c.Tables[1].Entries) > 0 {
		t.Errorf("warnings %q, tables %v", got, c.Tables)
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		p := netip.MustParsePrefix(a.String())
		entry := rules.Prefix{Prefix: netip.PrefixFrom(p.Addr(), p.Addr().BitLen())}
		if in := slices.Contains(c.Tables[0].Entries, entry); in == p.Addr().IsLoopback() {
			t.Errorf("%v is in the table: %t", a, in)
		}
	}
}
