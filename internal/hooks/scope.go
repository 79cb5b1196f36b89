package hooks

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"nfqfw/rules"
)

// A scope is the part of the traffic that one rule is about, as one rule of
// iptables can tell it: narrower matches of the rule, as negated prefixes, are
// left to the engine.
type scope struct {
	iface string       // incoming; empty: any
	notIn string       // incoming, and not this one; empty: any, or none
	addr  netip.Prefix // of the server; invalid: any
	ports string       // of the server, as --dports takes them; empty: any
}

// anywhere says whether the scope takes in what this machine itself begins.
func (s scope) anywhere() bool { return s.iface == "" && s.notIn == "" }

// scopes are all scopes of the rules in a version of IP, each once.
func scopes(list []rules.Rule, f Family) []scope {
	var all []scope
	seen := make(map[scope]bool)
	for i := range list {
		for _, s := range scopesOf(&list[i], f) {
			if !seen[s] {
				seen[s] = true
				all = append(all, s)
			}
		}
	}
	return all
}

func scopesOf(r *rules.Rule, f Family) []scope {
	notIn := ""
	if len(r.NotOn) > 0 {
		notIn = r.NotOn[0]
	}
	ifaces := r.On
	if len(ifaces) == 0 {
		ifaces = []string{""}
	}
	var list []scope
	for _, addr := range addresses(r.To.Prefixes, f) {
		for _, ports := range portLists(r.Ports) {
			for _, iface := range ifaces {
				list = append(list, scope{iface: iface, notIn: notIn, addr: addr, ports: ports})
			}
		}
	}
	return list
}

// addresses are the prefixes of the version of IP; the invalid one is any. A
// list of negated prefixes only is wide: it holds nearly everything.
func addresses(l rules.Prefixes, f Family) []netip.Prefix {
	var of []netip.Prefix
	wide := true
	for _, p := range l {
		if p.Negated {
			continue
		}
		wide = false
		switch {
		case p.Addr().Is4() != (f == IPv4):
		case p.Bits() == 0:
			return []netip.Prefix{{}}
		default:
			of = append(of, p.Prefix)
		}
	}
	if wide {
		return []netip.Prefix{{}}
	}
	return of
}

// maxPorts is how many ports multiport takes; a range counts as two.
const maxPorts = 15

// portLists cuts the ports into lists that multiport takes.
func portLists(ports []rules.PortRange) []string {
	if slices.Contains(ports, rules.PortRange{First: 0, Last: 65535}) {
		ports = nil
	}
	var lists []string
	var words []string
	used := 0
	for _, p := range ports {
		word, size := portWord(p)
		if used+size > maxPorts {
			lists = append(lists, strings.Join(words, ","))
			words, used = nil, 0
		}
		words = append(words, word)
		used += size
	}
	return append(lists, strings.Join(words, ","))
}

func portWord(p rules.PortRange) (word string, size int) {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First)), 1
	}
	return fmt.Sprintf("%d:%d", p.First, p.Last), 2
}

// Both directions of a connection, as the matches of an iptables rule.

// request matches what goes to the server.
func (s scope) request() string {
	return s.inIface() + s.address("-d") + s.port("--dport")
}

// reply matches what comes from the server. By which interface it comes is
// not known: "on" is where the clients are.
func (s scope) reply() string { return s.address("-s") + s.port("--sport") }

func (s scope) inIface() string {
	switch {
	case s.iface != "":
		return " -i " + s.iface
	case s.notIn != "":
		return " ! -i " + s.notIn
	}
	return ""
}

func (s scope) address(option string) string {
	if !s.addr.IsValid() {
		return ""
	}
	return " " + option + " " + s.addr.String()
}

// port prefers the match of TCP itself, which is cheaper than multiport.
func (s scope) port(option string) string {
	switch {
	case s.ports == "":
		return ""
	case strings.Contains(s.ports, ","):
		return " -m multiport " + option + "s " + s.ports
	}
	return " " + option + " " + s.ports
}
