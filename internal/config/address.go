package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfqfw/rules"
)

// everything is what "any" means beside other prefixes.
var everything = []rules.Prefix{
	{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
	{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)},
}

// element is one of "from" or "to": prefixes or a table.
type element struct {
	prefixes []rules.Prefix
	table    *rules.TableRef
}

// addresses reads "from" and "to". "any" alone is what names nothing.
func (s section) addresses(dst *rules.Addresses) func(any) error {
	return func(v any) error {
		var all []element
		want := `a list of prefixes (such as ["192.0.2.0/24", "!192.0.2.1"])`
		if err := list(&all, want, s.tables.element)(v); err != nil {
			return err
		}
		if len(all) == 1 && len(all[0].prefixes) == len(everything) {
			return nil
		}
		for _, e := range all {
			dst.Prefixes = append(dst.Prefixes, e.prefixes...)
			if e.table != nil {
				dst.Tables = append(dst.Tables, *e.table)
			}
		}
		return errors.Join(contradiction(dst.Prefixes), tableContradiction(dst.Tables))
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

// tableContradiction finds a table that is both in and out.
func tableContradiction(l []rules.TableRef) error {
	for i, ref := range l {
		if slices.Contains(l[:i], rules.TableRef{Name: ref.Name, Negated: !ref.Negated}) {
			return fmt.Errorf("<%s> is in the list, with ! and without", ref.Name)
		}
	}
	return nil
}

// element reads an element of the list.
func (t tableNames) element(v any) (element, error) {
	s, ok := v.(string)
	if !ok {
		return element{}, wrongType(v, "a prefix in quotes")
	}
	rest, negated := strings.CutPrefix(s, "!")
	rest = strings.TrimSpace(rest)
	switch {
	case rest == "any" && negated:
		return element{}, fmt.Errorf("%s holds no address", shown(s))
	case rest == "any":
		return element{prefixes: everything}, nil
	case strings.HasPrefix(rest, "<"):
		ref, err := t.reference(rest, negated)
		if err != nil {
			return element{}, fmt.Errorf("%s: %w", shown(s), err)
		}
		return element{table: &ref}, nil
	}
	p, err := ParseEntry(s)
	if err != nil {
		return element{}, err
	}
	return element{prefixes: []rules.Prefix{p}}, nil
}

// reference reads "<name>".
func (t tableNames) reference(s string, negated bool) (rules.TableRef, error) {
	name, ok := strings.CutSuffix(s[1:], ">")
	if !ok {
		return rules.TableRef{}, errors.New("a table is named in angle brackets (<abusers>); the last one is missing")
	}
	return rules.TableRef{Name: name, Negated: negated}, t.known(name)
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
