package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"nfqfw/rules"
)

// Forward is a rule of the machine's nat that gives connections another
// destination. What of its matches is not known is wide: the rule may be about
// less.
type Forward struct {
	Rule     string // as the tool prints it
	Family   Family
	Local    bool              // for connections that begin on this machine
	In       []string          // interfaces that connections come in by, may end in "*"; empty: any
	To       []netip.Prefix    // the destinations that clients name; the invalid prefix is any
	Ports    []rules.PortRange // and their ports; empty: any
	NewTo    []netip.Prefix    // the destinations instead; empty: the same
	NewPorts []rules.PortRange // and their ports; empty: the same
}

// same says whether two forwards do the same, however they are written.
func (f *Forward) same(g Forward) bool {
	return f.Family == g.Family && f.Local == g.Local && slices.Equal(f.In, g.In) && slices.Equal(f.To, g.To) &&
		slices.Equal(f.Ports, g.Ports) && slices.Equal(f.NewTo, g.NewTo) && slices.Equal(f.NewPorts, g.NewPorts)
}

// Forwards are the rules of the nat table that forward TCP connections, by
// iptables or native to nftables, in the network namespace of the calling thread.
// Asking makes no table. A tool that is not there has no rules; one that cannot
// tell, for want of privileges above all, is an error beside what others say.
func Forwards(ctx context.Context) ([]Forward, error) {
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	var all []Forward
	add := func(list []Forward) {
		for _, f := range list {
			if !slices.ContainsFunc(all, f.same) {
				all = append(all, f)
			}
		}
	}
	for _, f := range Families {
		out, failed := output(ctx, f.command("save"))
		add(parseNAT(out, f, own))
		if err == nil {
			err = failed
		}
		// The back end that the machine does not use may have rules all the same.
		for _, backend := range []string{"legacy", "nft"} {
			out, _ := output(ctx, f.command(backend+"-save"))
			add(parseNAT(out, f, own))
		}
	}
	out, failed := output(ctx, "nft", "list", "ruleset")
	add(parseRuleset(out, own))
	if err == nil {
		err = failed
	}
	return all, err
}

// output is what a tool prints, nothing if it is not there.
func output(ctx context.Context, tool string, args ...string) (string, error) {
	if _, err := exec.LookPath(tool); err != nil {
		return "", nil
	}
	return run(ctx, "", tool, args...)
}

// ownAddresses are the addresses of this machine.
func ownAddresses() ([]netip.Prefix, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("hooks: addresses of this machine: %w", err)
	}
	var own []netip.Prefix
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return own, nil
}

// Conflicts says which rules are about connections that are forwarded, under
// either destination. nfqfw sees what comes in before nat has changed it, and what
// goes out after, so that it cannot tell that they belong together.
func Conflicts(forwards []Forward, list []rules.Rule) []error {
	var all []error
	seen := make(map[string]bool)
	for i := range list {
		for j := range forwards {
			text := conflict(&forwards[j], &list[i])
			if text == "" || seen[text] {
				continue
			}
			seen[text] = true
			all = append(all, errors.New(text))
		}
	}
	return all
}

func conflict(f *Forward, r *rules.Rule) string {
	if !f.meetsInterface(r) {
		return ""
	}
	to, ports := f.NewTo, f.NewPorts
	if len(to) == 0 {
		to = f.To
	}
	if len(ports) == 0 {
		ports = f.Ports
	}
	const advice = "nfqfw cannot follow a connection through DNAT: run it on the server, or keep the rule and the forward apart"
	if at, ok := meeting(r, f.Family, f.To, f.Ports); ok {
		if r.Action == rules.Block {
			return "" // what is blocked does not get as far as nat
		}
		return fmt.Sprintf("rule %d (%q): port: %s is forwarded by the nat table (%q); %s", r.Number, r.Name, at, f.Rule, advice)
	}
	if at, ok := meeting(r, f.Family, to, ports); ok {
		return fmt.Sprintf("rule %d (%q): port: %s is where the nat table forwards to (%q); %s", r.Number, r.Name, at, f.Rule, advice)
	}
	return ""
}

// meetsInterface says whether a rule's connections can come in where a forward
// looks for them. Those of this machine's own are a matter of rules for any
// interface.
func (f *Forward) meetsInterface(r *rules.Rule) bool {
	switch {
	case len(r.On) == 0 && len(r.NotOn) == 0:
		return true
	case f.Local:
		return false
	case len(f.In) == 0:
		return true
	case len(r.NotOn) > 0:
		return slices.ContainsFunc(f.In, func(in string) bool { return !slices.Contains(r.NotOn, in) })
	}
	return slices.ContainsFunc(r.On, func(name string) bool {
		return slices.ContainsFunc(f.In, func(in string) bool {
			start, wild := strings.CutSuffix(in, "*")
			return name == in || wild && strings.HasPrefix(name, start)
		})
	})
}

// meeting is where a rule's destinations and others have something in common.
func meeting(r *rules.Rule, f Family, to []netip.Prefix, ports []rules.PortRange) (at string, ok bool) {
	addrs := commonPrefixes(addresses(r.To.Prefixes, f), to)
	port, ok := firstCommonPorts(r.Ports, ports)
	if len(addrs) == 0 || !ok {
		return "", false
	}
	return describe(addrs[0], port), true
}

// commonPrefixes is what two lists of prefixes have in common, each once.
func commonPrefixes(a, b []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range a {
		for _, q := range b {
			if c, ok := commonPrefix(p, q); ok && !slices.Contains(list, c) {
				list = append(list, c)
			}
		}
	}
	return list
}

// commonPrefix is the narrower of two prefixes. The invalid one is any.
func commonPrefix(p, q netip.Prefix) (netip.Prefix, bool) {
	switch {
	case !p.IsValid():
		return q, true
	case !q.IsValid():
		return p, true
	case p.Bits() < q.Bits():
		return q, p.Overlaps(q)
	}
	return p, p.Overlaps(q)
}

var anyPort = rules.PortRange{First: 0, Last: 65535}

func firstCommonPorts(a, b []rules.PortRange) (rules.PortRange, bool) {
	if len(a) == 0 {
		a = []rules.PortRange{anyPort}
	}
	if len(b) == 0 {
		b = []rules.PortRange{anyPort}
	}
	for _, p := range a {
		for _, q := range b {
			if c := (rules.PortRange{First: max(p.First, q.First), Last: min(p.Last, q.Last)}); c.First <= c.Last {
				return c, true
			}
		}
	}
	return rules.PortRange{}, false
}

func describe(addr netip.Prefix, port rules.PortRange) string {
	var words []string
	if addr.IsValid() && port.First == port.Last && addr.IsSingleIP() {
		return netip.AddrPortFrom(addr.Addr(), port.First).String()
	}
	switch {
	case addr.IsSingleIP():
		words = append(words, addr.Addr().String())
	case addr.IsValid():
		words = append(words, addr.String())
	}
	switch {
	case port.First == port.Last:
		words = append(words, fmt.Sprintf("port %d", port.First))
	case port != anyPort:
		words = append(words, fmt.Sprintf("ports %d-%d", port.First, port.Last))
	case len(words) == 0:
		return "every port"
	}
	return strings.Join(words, " ")
}
