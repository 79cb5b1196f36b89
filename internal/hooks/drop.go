package hooks

import (
	"fmt"
	"net/netip"
	"slices"

	"nfqfw/internal/ipset"
	"nfqfw/rules"
)

// Some block rules the kernel carries out by itself, so that a blocked source costs
// nothing in user space: those that say nothing to whom they block and whose "from"
// is tables, which have sets in the kernel. What it drops so, Ruleset.Match would have
// had blocked in silence.

// Tables are the tables whose sets the hooks refer to.
func Tables(list []rules.Rule) (names []string) {
	kernel, _ := split(list)
	for i := range kernel {
		for _, ref := range kernel[i].From.Tables {
			if !slices.Contains(names, ref.Name) {
				names = append(names, ref.Name)
			}
		}
	}
	return names
}

// split parts the rules that the kernel carries out by itself from those whose packets
// user space has to see.
func split(list []rules.Rule) (kernel, queued []rules.Rule) {
	for i := range list {
		if inKernel(list, i) {
			kernel = append(kernel, list[i])
		} else {
			queued = append(queued, list[i])
		}
	}
	return kernel, queued
}

// inKernel says whether the kernel can carry out a rule by itself: it can tell what the
// rule is about, and no other rule could win that does not drop.
func inKernel(list []rules.Rule, i int) bool {
	r := &list[i]
	if !drops(r) || !onlyTables(&r.From) || len(r.NotOn) > 1 || len(r.To.Tables) > 0 || slices.ContainsFunc(r.To.Prefixes, negated) {
		return false
	}
	for j := range list {
		other := &list[j]
		wins := j < i && other.Quick || j > i && !r.Quick
		if wins && !drops(other) && meet(r, other) {
			return false
		}
	}
	return true
}

// drops says whether a rule says no, and nothing else.
func drops(r *rules.Rule) bool {
	return r.Action == rules.Block && r.Refuse == rules.RefuseDrop && !r.CountOnly
}

func negated(p rules.Prefix) bool { return p.Negated }

// onlyTables says whether nothing but tables decides.
func onlyTables(a *rules.Addresses) bool {
	return len(a.Prefixes) == 0 && slices.ContainsFunc(a.Tables, func(ref rules.TableRef) bool { return !ref.Negated })
}

// meet says whether a connection could match a rule whose "from" is tables and whose
// "to" is prefixes, and another rule too. If that is not known, it could.
func meet(r, other *rules.Rule) bool {
	return meetOn(r.On, other.On) && meetPorts(r.Ports, other.Ports) && meetTo(r.To.Prefixes, &other.To) && !excludes(&other.From, &r.From)
}

func meetOn(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(name string) bool { return slices.Contains(b, name) })
}

func meetPorts(a, b []rules.PortRange) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	for _, p := range a {
		if slices.ContainsFunc(b, func(q rules.PortRange) bool { return p.First <= q.Last && q.First <= p.Last }) {
			return true
		}
	}
	return false
}

func meetTo(to rules.Prefixes, other *rules.Addresses) bool {
	plain := slices.DeleteFunc(slices.Clone(other.Prefixes), negated)
	inTable := slices.ContainsFunc(other.Tables, func(ref rules.TableRef) bool { return !ref.Negated })
	if len(to) == 0 || len(plain) == 0 || inTable {
		return true
	}
	overlaps := func(p netip.Prefix) bool {
		return slices.ContainsFunc(plain, func(q rules.Prefix) bool { return p.Overlaps(q.Prefix) })
	}
	return slices.ContainsFunc(to, func(p rules.Prefix) bool { return overlaps(p.Prefix) })
}

// excludes says whether addresses are without all that tables hold.
func excludes(a, tables *rules.Addresses) bool {
	return !slices.ContainsFunc(tables.Tables, func(ref rules.TableRef) bool {
		return !ref.Negated && !slices.Contains(a.Tables, rules.TableRef{Name: ref.Name, Negated: true})
	})
}

// drop writes the rules that drop what blocked sources send. The match says which of
// their packets.
func (w *writer) drop(builtin, match string) {
	for i := range w.kernel {
		for _, s := range scopesOf(&w.kernel[i], w.family) {
			for _, set := range w.sets(&w.kernel[i].From) {
				if builtin == "PREROUTING" || s.anywhere() {
					w.line("-A %s -p tcp%s%s%s -j DROP", prefix+builtin, match, s.request(), set)
				}
			}
		}
	}
}

// sets are the matches of addresses that tables decide about, one for each table that
// holds some.
func (w *writer) sets(a *rules.Addresses) (matches []string) {
	match := func(not string, ref rules.TableRef) string {
		return fmt.Sprintf(" -m set%s --match-set %s src", not, ipset.Name(ref.Name, w.family == IPv6))
	}
	out := ""
	for _, ref := range a.Tables {
		if ref.Negated {
			out += match(" !", ref)
		}
	}
	for _, ref := range a.Tables {
		if !ref.Negated {
			matches = append(matches, match("", ref)+out)
		}
	}
	return matches
}
