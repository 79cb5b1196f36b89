package hooks

import (
	"net/netip"
	"strings"
)

// parseNAT finds the forwards in what iptables-save prints.
func parseNAT(out string, f Family, own []netip.Prefix) []Forward {
	chains := make(natChains)
	table := ""
	for line := range strings.SplitSeq(out, "\n") {
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		}
		if rule := words(line); table == "nat" && len(rule) > 2 && rule[0] == "-A" {
			chains[rule[1]] = append(chains[rule[1]], parseNATRule(line, rule[2:], f, own))
		}
	}
	return append(chains.forwards("PREROUTING", false), chains.forwards("OUTPUT", true)...)
}

// parseNATRule reads a rule. Matches it does not know, and negated ones, could
// only narrow it.
func parseNATRule(line string, rule []string, f Family, own []netip.Prefix) natRule {
	r := newNATRule(line, f)
	negated := false
	for i := 0; i+1 < len(rule); i++ {
		option, value := rule[i], rule[i+1]
		switch {
		case option == "!":
			negated = true
			continue
		case option == "--comment":
			i++
		case option == "-p":
			isTCP := value == "tcp" || value == "6"
			r.never = negated == isTCP && value != "all"
		case !negated:
			r.read(option, value, own)
		}
		negated = false
	}
	r.ofFamily()
	return r
}

// read takes note of an option that is not negated.
func (r *natRule) read(option, value string, own []netip.Prefix) {
	switch option {
	case "-d":
		if list, ok := parseAddresses([]string{value}); ok {
			r.To = commonPrefixes(r.To, list)
		}
	case "--dst-type":
		if value == "LOCAL" {
			r.To = commonPrefixes(r.To, own)
		}
	case "-i":
		r.In = []string{strings.Replace(value, "+", "*", 1)}
	case "--dport", "--dports":
		if list, ok := parsePorts(strings.Split(value, ",")); ok {
			r.Ports = list
		}
	case "--to-destination", "--to":
		r.setTarget(value)
	case "--to-ports":
		r.setTarget(":" + value)
		r.NewTo = own
	case "-j", "-g":
		r.jumps = append(r.jumps, value)
		r.forwards = value == "DNAT" || value == "REDIRECT" || value == "NETMAP"
		if value == "REDIRECT" {
			r.NewTo = own
		}
	}
}
