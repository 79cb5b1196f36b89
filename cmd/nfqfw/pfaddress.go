package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"nfqfw/internal/config"
	"nfqfw/internal/pfconf"
	"nfqfw/rules"
)

// fillTables puts into the tables for them the addresses that interfaces of this machine
// have now, as pf does when it loads a ruleset, and says so, or that there are none.
func fillTables(c *config.Config, list []pfconf.Addresses) (warnings []string) {
	for _, a := range list {
		found := addressesOf(a.Of)
		if len(found) == 0 {
			warnings = append(warnings, a.Note().String())
			continue
		}
		for i := range c.Tables {
			if c.Tables[i].Name == a.Table {
				c.Tables[i].Entries = found
			}
		}
		warnings = append(warnings, fmt.Sprintf("line %d: the addresses of %s are those of now (%s); reload when they change",
			a.Line, a.Of, prefixList(found)))
	}
	return warnings
}

func prefixList(list []rules.Prefix) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.Prefix.String()
	}
	return strings.Join(words, ", ")
}

// addressesOf are the addresses of an interface, or of all for "self", with pf's
// modifiers. Other names have none: no host is looked up.
func addressesOf(name string) (list []rules.Prefix) {
	name, modifiers, _ := strings.Cut(name, ":")
	addrs, err := interfaceAddrs(name)
	if err != nil {
		return nil
	}
	var seen [2]bool // IPv4, IPv6
	for _, a := range addrs {
		p, ok := prefixOf(a, modifiers)
		first := &seen[p.Addr().BitLen()/128]
		if !ok || *first && strings.HasSuffix(modifiers, "0") {
			continue
		}
		*first = true
		if entry := (rules.Prefix{Prefix: p}); !slices.Contains(list, entry) {
			list = append(list, entry)
		}
	}
	return list
}

func interfaceAddrs(name string) ([]net.Addr, error) {
	if name == "self" {
		return net.InterfaceAddrs()
	}
	i, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	return i.Addrs()
}

// prefixOf is an address as the modifiers ask for it.
func prefixOf(a net.Addr, modifiers string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(a.String())
	if err != nil || p.Addr().IsLoopback() {
		return netip.Prefix{}, false
	}
	switch modifiers {
	case "", "0":
		return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), true
	case "network", "network:0":
		return p.Masked(), true
	}
	return netip.Prefix{}, false
}
