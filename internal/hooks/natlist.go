package hooks

import (
	"net/netip"
	"slices"
	"strings"
)

// natTable is a table of nftables, as far as forwards need it.
type natTable struct {
	families []Family
	chains   map[Family]natChains
	maps     map[string][]string // the chains that a map's verdicts lead to
	bases    []natBase
}

// natBase is a chain that the kernel calls.
type natBase struct {
	name  string
	local bool
}

// parseRuleset finds the forwards in what "nft list ruleset" prints.
func parseRuleset(out string, own []netip.Prefix) []Forward {
	var all []Forward
	var table *natTable
	var kind, name string // of the block inside the table
	for _, line := range statements(out) {
		w := words(line)
		switch {
		case len(w) >= 4 && w[0] == "table" && w[3] == "{":
			all = append(all, table.forwards()...)
			table = newNATTable(w[1])
		case table == nil:
		case len(w) >= 3 && w[2] == "{" && (w[0] == "chain" || w[0] == "map" || w[0] == "set"):
			kind, name = w[0], w[1]
		case w[0] == "}":
			kind = ""
		case kind == "map":
			table.maps[name] = append(table.maps[name], targets(w)...)
		case kind == "chain" && w[0] == "type":
			table.base(name, w)
		case kind == "chain":
			table.add(name, line, w, own)
		}
	}
	return append(all, table.forwards()...)
}

// statements are the lines, those joined that a set in braces goes over.
func statements(out string) []string {
	var list, begun []string
	open := 0
	for line := range strings.SplitSeq(out, "\n") {
		w := words(line)
		if len(w) == 0 {
			continue
		}
		begun = append(begun, strings.TrimSpace(line))
		open += count(w, "{") - count(w, "}")
		if open > 0 && w[len(w)-1] != "{" {
			continue // of a set; a block's brace is the last word
		}
		list = append(list, strings.Join(begun, " "))
		begun, open = nil, 0
	}
	return list
}

func count(list []string, word string) int {
	n := 0
	for _, w := range list {
		if w == word {
			n++
		}
	}
	return n
}

func newNATTable(family string) *natTable {
	t := &natTable{chains: make(map[Family]natChains), maps: make(map[string][]string)}
	switch family {
	case "ip":
		t.families = []Family{IPv4}
	case "ip6":
		t.families = []Family{IPv6}
	case "inet":
		t.families = Families
	}
	for _, f := range t.families {
		t.chains[f] = make(natChains)
	}
	return t
}

// base notes a chain that says "type nat hook prerouting priority …".
func (t *natTable) base(name string, w []string) {
	if len(w) > 3 && w[1] == "nat" && (w[3] == "prerouting" || w[3] == "output") {
		t.bases = append(t.bases, natBase{name, w[3] == "output"})
	}
}

func (t *natTable) add(chain, line string, w []string, own []netip.Prefix) {
	for _, f := range t.families {
		r := parseListed(line, w, f, own)
		if i := slices.Index(w, "vmap"); i > 0 {
			if name, ok := strings.CutPrefix(wordAt(w, i+1), "@"); ok {
				r.jumps = append(r.jumps, t.maps[name]...)
			}
		}
		t.chains[f][chain] = append(t.chains[f][chain], r)
	}
}

func (t *natTable) forwards() []Forward {
	var list []Forward
	if t == nil {
		return nil
	}
	for _, f := range t.families {
		for _, b := range t.bases {
			list = append(list, t.chains[f].forwards(b.name, b.local)...)
		}
	}
	return list
}

// otherProtocols are the headers that TCP connections do not have.
var otherProtocols = []string{"udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "ah", "esp", "comp"}

// parseListed reads a rule. What it does not understand could only narrow it.
func parseListed(line string, w []string, f Family, own []netip.Prefix) natRule {
	r := newNATRule(line, f)
	for i, word := range w {
		values := valuesAt(w, i+1)
		switch word {
		case "iif", "iifname":
			r.In = unquoted(values)
		case "ip", "ip6":
			if wordAt(w, i+1) == "daddr" {
				r.never = r.never || (word == "ip") != (f == IPv4)
			}
		case "daddr":
			if list, ok := parseAddresses(values); ok {
				r.To = commonPrefixes(r.To, list)
			} else if wordAt(w, i+1) == "type" && wordAt(w, i+2) == "local" {
				r.To = commonPrefixes(r.To, own)
			}
		case "dport":
			if list, ok := parsePorts(values); ok {
				r.Ports = list
			}
		case "l4proto", "protocol", "nexthdr":
			of := wordAt(w, i-1) + " " + word
			isProtocol := of == "meta l4proto" || of == "ip protocol" || of == "ip6 nexthdr"
			r.never = r.never || isProtocol && len(values) > 0 && !slices.Contains(values, "tcp")
		case "dnat", "redirect":
			if wordAt(w, i-1) != "status" { // ct status dnat is a match
				r.changes(w[i:], own)
			}
		default:
			next := wordAt(w, i+1)
			isHeader := slices.Contains(otherProtocols, word) && (next == "dport" || next == "sport" || next == "type")
			r.never = r.never || isHeader
		}
	}
	r.jumps = append(r.jumps, targets(w)...)
	r.ofFamily()
	return r
}

// changes reads the statement that forwards: "dnat ip to 10.0.0.2:80", "redirect".
func (r *natRule) changes(w []string, own []netip.Prefix) {
	r.forwards = true
	if kind := wordAt(w, 1); kind == "ip" || kind == "ip6" {
		r.never = r.never || (kind == "ip") != (r.Family == IPv4)
	}
	const farthest = 3 // dnat ip prefix to
	if i := slices.Index(w, "to"); i > 0 && i <= farthest {
		r.setTarget(wordAt(w, i+1))
	}
	if w[0] == "redirect" {
		r.NewTo = own
	}
}

// targets are the chains that verdicts lead to, each once.
func targets(w []string) []string {
	var list []string
	for i, word := range w {
		chain := strings.TrimSuffix(wordAt(w, i+1), ",")
		if (word == "jump" || word == "goto") && !slices.Contains(list, chain) {
			list = append(list, chain)
		}
	}
	return list
}

// valuesAt is the value or the set that a match compares with; nothing if it is
// negated.
func valuesAt(w []string, i int) []string {
	switch wordAt(w, i) {
	case "!=":
		return nil
	case "{":
		list := w[i+1:]
		if end := slices.Index(list, "}"); end >= 0 {
			list = list[:end]
		}
		var values []string
		for _, word := range list {
			values = append(values, strings.TrimSuffix(word, ","))
		}
		return values
	case "":
		return nil
	}
	return []string{w[i]}
}

func wordAt(w []string, i int) string {
	if i >= 0 && i < len(w) {
		return w[i]
	}
	return ""
}

func unquoted(list []string) []string {
	var names []string
	for _, word := range list {
		if strings.HasPrefix(word, "@") {
			return nil // a set whose elements are elsewhere
		}
		names = append(names, strings.Trim(word, `"`))
	}
	return names
}
