package rules

import (
	"net/netip"
	"slices"
)

// Names says whether a rule, or a table that one names, tells a source from others. For all
// that none does the same rule holds, as far as it is for their address.
func (s *Ruleset) Names(source netip.Addr) bool {
	for i := range s.rules {
		if slices.ContainsFunc(s.rules[i].From.Prefixes, func(p Prefix) bool { return p.tellsApart() && p.Prefix.Contains(source) }) {
			return true
		}
	}
	return slices.ContainsFunc(s.tables, func(t Table) bool { return t.Contains(source) })
}

// Named calls f for the prefixes by which rules tell sources apart. Those of tables are not
// among them.
func Named(rules []Rule, f func(netip.Prefix)) {
	for i := range rules {
		for _, p := range rules[i].From.Prefixes {
			if p.tellsApart() {
				f(p.Prefix)
			}
		}
	}
}

// tellsApart says whether there are addresses of the prefix's version of IP that it does not
// hold.
func (p Prefix) tellsApart() bool { return p.Bits() > 0 }
