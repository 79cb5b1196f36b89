package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"nfqfw/rules"
)

// everything is what "any" means beside other prefixes.
var everything = []rules.Prefix{
	{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
	{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
}

// prefixes reads "from" and "to". "any" alone is the empty list.
func prefixes(dst *rules.Prefixes) func(any) error {
	return func(v any) error {
		var all [][]rules.Prefix
		want := `a list of prefixes (such as ["192.0.2.0/24", "!192.0.2.1"])`
		if err := list(&all, want, prefix)(v); err != nil {
			return err
		}
		if len(all) == 1 && len(all[0]) == len(everything) {
			return nil
		}
		for _, p := range all {
			*dst = append(*dst, p...)
		}
		return contradiction(*dst)
	}
}

// contradiction finds a prefix that is both in and out.
func contradiction(l rules.Prefixes) error {
	negated := make(map[netip.Prefix]bool)
	for _, p := range l {
		if was, seen := negated[p.Prefix]; seen && was != p.Negated {
			return fmt.Errorf("%s is in the list, with ! and without", p.Prefix)
		}
		negated[p.Prefix] = p.Negated
	}
	return nil
}

// prefix reads an element of the list.
func prefix(v any) ([]rules.Prefix, error) {
	s, ok := v.(string)
	if !ok {
		return nil, wrongType(v, "a prefix in quotes")
	}
	rest, negated := strings.CutPrefix(s, "!")
	rest = strings.TrimSpace(rest)
	switch {
	case rest == "any" && negated:
		return nil, fmt.Errorf("%s holds no address", shown(s))
	case rest == "any":
		return everything, nil
	case strings.HasPrefix(rest, "<"):
		return nil, fmt.Errorf("%s: %w", shown(s), notYet("has no tables", "remove the element"))
	}
	p, err := parsePrefix(rest)
	if err != nil {
		return nil, fmt.Errorf("%s %w", shown(s), err)
	}
	return []rules.Prefix{{Prefix: p, Negated: negated}}, nil
}

// errNotPrefix follows the text that is none.
var errNotPrefix = errors.New("is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)")

// parsePrefix reads a prefix or a single address. Bits of a host in a prefix
// are cut off, as pf does. IPv4 mapped into IPv6 is IPv4: no packet carries
// such an address.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, errors.New("has a zone; name the interface with on")
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, errNotPrefix
	}
	if !p.Addr().Is4In6() {
		return p.Masked(), nil
	}
	if p.Bits() < 96 {
		return netip.Prefix{}, errors.New("holds more than the IPv4 addresses it is written with")
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked(), nil
}
