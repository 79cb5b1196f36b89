package pfconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nfqfw/rules"
)

// host is an element of "from", "to" or a table: one of its fields says what.
type host struct {
	any      bool
	prefixes []netip.Prefix // one, or those of a range; all of one family
	table    string
	name     string // of an interface or a host, whose addresses are meant
	special  string // no-route, urpf-failed, route "label": no addresses at all
	negated  bool
}

// elements are the host in nfqfw's own configuration. A negated prefix holds the others
// of its version of IP only, as a rule of pf has one version.
func (h host) elements() (list []any) {
	sign := ""
	if h.negated {
		sign = "!"
	}
	if h.negated && len(h.prefixes) > 0 {
		list = append(list, everything(h.family()))
	}
	for _, p := range h.prefixes {
		list = append(list, sign+rules.PrefixText(p))
	}
	if t := h.tableName(); t != "" {
		list = append(list, sign+"<"+t+">")
	}
	return list
}

// family is the version of IP it holds addresses of, if it is one.
func (h host) family() family {
	if len(h.prefixes) == 0 {
		return unspecified
	}
	return familyOf(h.prefixes[0])
}

// tableName is the table with its addresses. Those of a name are not known here: they
// get a table to write them into.
func (h host) tableName() string {
	if h.name == "" {
		return h.table
	}
	name, part, found := strings.Cut(h.name, ":")
	if !found || part == "0" {
		part = "addresses"
	}
	return strings.Map(func(r rune) rune {
		if r == '.' || r == ':' {
			return '-'
		}
		return r
	}, name+"-"+part)
}

// text is the host as a label shows it.
func (h host) text() string {
	if h.any {
		return "any"
	}
	e := h.elements()
	if len(e) == 0 {
		return h.special
	}
	return e[len(e)-1].(string)
}

// host reads an element.
func (p *parser) host() host {
	h := host{negated: p.accept("!")}
	switch {
	case p.accept("any"):
		h.any = true
		if h.negated {
			p.fail("address", `"! any" holds no address`)
		}
	case p.peek().is("no-route") || p.peek().is("urpf-failed"):
		h.special = p.next().text
	case p.accept("route"):
		h.special = "route " + p.text("the label of a route")
	case p.peek().is("<"):
		h.table = p.tableRef()
	case p.accept("("):
		name := p.text("the name of an interface")
		p.expect(")")
		p.named(&h, name)
	default:
		p.address(&h)
	}
	return h
}

// tableRef reads <name>.
func (p *parser) tableRef() string {
	p.expect("<")
	name := p.text("the name of a table")
	p.expect(">")
	if len(name) > maxTableName {
		p.fail("table", "%s has %d octets; at most %d are allowed", shown(name), len(name), maxTableName)
	}
	return name
}

// maxTableName is pf's, for the name of a table.
const maxTableName = 31

// bits reads the length of a prefix, if there is one.
func (p *parser) bits() (bits string, has bool) {
	if !p.accept("/") {
		return "", false
	}
	return p.text("the length of a prefix"), true
}

// named is the host that a name means. With a length behind it, it means a network
// that is not known here.
func (p *parser) named(h *host, name string) {
	h.name = name
	if bits, has := p.bits(); has {
		h.name, h.special = "", name+"/"+bits
	}
}

// address reads an address, a prefix, a range or a name.
func (p *parser) address(h *host) {
	text := p.text("an address")
	switch {
	case text == "": // an error of grammar, told already
	case p.accept("-"):
		h.prefixes = p.addressRange(text, p.text("the last address of the range"))
	case isName(text) && !isNumeric(text):
		p.named(h, text)
	default:
		bits, has := p.bits()
		prefix, err := parsePrefix(text, bits, has)
		if err != nil {
			p.fail("address", "%w", err)
		}
		h.prefixes = []netip.Prefix{prefix}
		p.remarkAddress(text, prefix, has)
	}
}

// remarkAddress notes what is odd about an address.
func (p *parser) remarkAddress(text string, prefix netip.Prefix, hasBits bool) {
	if address, zone, found := strings.Cut(text, "%"); found {
		p.remarks = append(p.remarks, "no equivalent: the zone of "+address+", "+zone)
	}
	if isNumeric(text) && strings.Count(text, ".") < 3 && !hasBits {
		p.remarks = append(p.remarks, fmt.Sprintf("%s is the host %v; a network has the length of its prefix behind it", text, prefix.Addr()))
	}
}

// addressRange reads the ends of a range.
func (p *parser) addressRange(first, last string) []netip.Prefix {
	a, errA := netip.ParseAddr(first)
	b, errB := netip.ParseAddr(last)
	switch {
	case last == "":
		return nil
	case errA != nil || errB != nil:
		p.fail("address", "%s - %s is not a range of addresses", cut(first), cut(last))
	case a.Is4() != b.Is4():
		p.fail("address", "%s - %s is of two versions of IP", first, last)
	case a.Compare(b) > 0:
		p.fail("address", "%s - %s is a range from its end to its start", first, last)
	}
	return cover(a.WithZone(""), b.WithZone(""))
}

// isName says whether a word can be the name of an interface or a host, with pf's
// modifiers behind it.
func isName(s string) bool {
	name, modifiers, _ := strings.Cut(s, ":")
	odd := func(r rune) bool { return !inMacroName(byte(r)) && r != '.' && r != '-' }
	if name == "" || len(s) > maxShown || strings.ContainsFunc(name, odd) {
		return false
	}
	for m := range strings.SplitSeq(modifiers, ":") {
		if !slices.Contains([]string{"", "network", "broadcast", "peer", "0"}, m) {
			return false
		}
	}
	return true
}
