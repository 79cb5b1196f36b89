package hooks

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"nfqfw/rules"
)

// natRule is a rule on the way to a forward. What it matches is in the Forward.
type natRule struct {
	Forward
	forwards bool
	jumps    []string // the chains it leads to
	never    bool     // no TCP connection
}

func newNATRule(text string, f Family) natRule {
	return natRule{Forward: Forward{Rule: text, Family: f, To: []netip.Prefix{{}}, NewTo: []netip.Prefix{{}}}}
}

// natChains are chains of one table by their names.
type natChains map[string][]natRule

// forwards collects what a chain leads to.
func (c natChains) forwards(name string, local bool) []Forward {
	w := natWalk{chains: c, been: make(map[string]bool)}
	w.follow(name, Forward{Local: local, To: []netip.Prefix{{}}})
	return w.found
}

// natWalk is a way through chains, which may meet again further on.
type natWalk struct {
	chains natChains
	been   map[string]bool // chains, and what they were reached with
	found  []Forward
}

// maxChains bounds a walk. No machine has as many ways through its nat.
const maxChains = 1 << 16

// follow collects what a chain leads to, narrowed to what came so far.
func (w *natWalk) follow(name string, soFar Forward) {
	place := fmt.Sprint(name, soFar.In, soFar.To, soFar.Ports)
	if w.been[place] || len(w.been) == maxChains {
		return
	}
	w.been[place] = true
	for _, r := range w.chains[name] {
		f := r.Forward
		if r.never || !f.narrow(&soFar) {
			continue
		}
		if r.forwards {
			w.found = append(w.found, f)
		}
		for _, next := range r.jumps {
			w.follow(next, f)
		}
	}
}

// narrow leaves of a rule's matches what an earlier one lets through, and says
// whether that is anything.
func (f *Forward) narrow(earlier *Forward) bool {
	f.Local = earlier.Local
	if len(f.In) == 0 {
		f.In = earlier.In
	}
	if f.To = commonPrefixes(earlier.To, f.To); len(f.To) == 0 {
		return false
	}
	if len(f.Ports) == 0 || len(earlier.Ports) == 0 {
		f.Ports = append(slices.Clip(f.Ports), earlier.Ports...)
		return true
	}
	_, ok := firstCommonPorts(f.Ports, earlier.Ports)
	return ok
}

// ofFamily leaves the addresses of the rule's family, and has the rule never match
// if there are none.
func (r *natRule) ofFamily() {
	wrong := func(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is4() != (r.Family == IPv4) }
	for _, list := range []*[]netip.Prefix{&r.To, &r.NewTo} {
		if len(*list) > 0 {
			*list = slices.DeleteFunc(slices.Clone(*list), wrong)
			r.never = r.never || len(*list) == 0
		}
	}
}

// parsePorts reads single ports and ranges; ok is false if any is neither.
func parsePorts(words []string) (list []rules.PortRange, ok bool) {
	for _, word := range words {
		first, last, isRange := strings.Cut(strings.Replace(word, ":", "-", 1), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil {
			return nil, false
		}
		list = append(list, rules.PortRange{First: uint16(from), Last: uint16(to)})
	}
	return list, len(list) > 0
}

// parseAddresses reads addresses, prefixes and ranges; ok is false if any is none
// of these.
func parseAddresses(words []string) (list []netip.Prefix, ok bool) {
	for _, word := range words {
		p, ok := parseAddress(word)
		if !ok {
			return nil, false
		}
		list = append(list, p)
	}
	return list, len(list) > 0
}

// parseAddress gives for a range the narrowest prefix around it.
func parseAddress(word string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(word); err == nil {
		return p.Masked(), true
	}
	first, last, isRange := strings.Cut(word, "-")
	a, err := netip.ParseAddr(strings.Trim(first, "[]"))
	if err != nil {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(a, a.BitLen())
	if !isRange {
		return p, true
	}
	b, err := netip.ParseAddr(strings.Trim(last, "[]"))
	if err != nil || a.Is4() != b.Is4() {
		return netip.Prefix{}, false
	}
	for !p.Contains(b) {
		p = netip.PrefixFrom(a, p.Bits()-1).Masked()
	}
	return p, true
}

// setTarget reads what DNAT takes: an address, or a range or prefix of such, with
// ports or without, or ports only. What it cannot read stays any.
func (r *natRule) setTarget(word string) {
	addr, port := word, ""
	if i := strings.LastIndexByte(word, ':'); i >= 0 {
		// The last colon of an IPv6 address without brackets or prefix length
		// is its own.
		if rest := word[:i]; rest == "" || strings.HasSuffix(rest, "]") || !strings.Contains(rest, ":") || strings.Contains(rest, "/") {
			addr, port = rest, word[i+1:]
		}
	}
	port, _, _ = strings.Cut(port, "/") // the port that a range is counted from
	if addr == "" {
		r.NewTo = nil
	} else if list, ok := parseAddresses([]string{addr}); ok {
		r.NewTo = list
	}
	if list, ok := parsePorts([]string{port}); ok {
		r.NewPorts = list
	}
}

// words parts a line at spaces. What is in quotes is one word, with its quotes.
func words(line string) []string {
	var list []string
	var word strings.Builder
	quoted, escaped := false, false
	for _, c := range line {
		if !quoted && (c == ' ' || c == '\t') {
			if word.Len() > 0 {
				list = append(list, word.String())
				word.Reset()
			}
			continue
		}
		if c == '"' && !escaped {
			quoted = !quoted
		}
		escaped = c == '\\' && !escaped
		word.WriteRune(c)
	}
	if word.Len() > 0 {
		list = append(list, word.String())
	}
	return list
}
