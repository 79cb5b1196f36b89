package rules

import (
	"net/netip"
	"slices"
)

// Prefix is an address range a rule names, or one it takes out.
type Prefix struct {
	netip.Prefix
	Negated bool
}

// PrefixText is a prefix as pf writes it: an address without its length.
func PrefixText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Prefixes is a list of address ranges. An empty one holds every address. An
// address is in the list if the longest prefix that holds it is not negated,
// as in a pf table; a list of negated prefixes only holds all others.
type Prefixes []Prefix

// Contains says whether the address is in the list.
func (l Prefixes) Contains(a netip.Addr) bool {
	in, known := l.find(a)
	return in || !known && l.onlyNegated()
}

// find looks for the longest prefix that holds the address, if one does, and says
// whether it is not negated.
func (l Prefixes) find(a netip.Addr) (in, known bool) {
	longest := -1
	for _, p := range l {
		if p.Bits() >= longest && p.Prefix.Contains(a) {
			in, known, longest = !p.Negated, true, p.Bits()
		}
	}
	return in, known
}

func (l Prefixes) onlyNegated() bool {
	return !slices.ContainsFunc(l, func(p Prefix) bool { return !p.Negated })
}

// Table is a named set of addresses that may change while rules use it. It is safe
// for concurrent use, and Contains is fast.
type Table interface {
	Contains(netip.Addr) bool
}

// TableRef is a table that a rule names, or one whose addresses it takes out.
type TableRef struct {
	Name    string
	Negated bool
}

// Addresses are those that a rule names. The zero value holds every address.
//
// A negated table takes an address out, whatever else names it. Of the prefixes the
// longest decides; what none of them holds is in if a table that is not negated holds
// it, or if nothing is named but what is taken out.
type Addresses struct {
	Prefixes Prefixes
	Tables   []TableRef
}

// candidates are where a rule's addresses begin and end, as far as prefixes decide:
// those that only a table could hold are among them.
func (a *Addresses) candidates(f family) toggles {
	return a.Prefixes.toggles(f, a.namesTable() || a.Prefixes.onlyNegated())
}

// namesTable says whether a table that is not negated is named.
func (a *Addresses) namesTable() bool {
	return slices.ContainsFunc(a.Tables, func(t TableRef) bool { return !t.Negated })
}
