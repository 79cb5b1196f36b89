package hooks

import (
	"slices"
	"strings"
)

// installed is what a machine has of our hooks, by table.
type installed map[string]presence

// presence is what one table has.
type presence struct {
	chains []string // names of chains of ours
	jumps  []string // rules that lead to one from a chain that is not ours, without the "-A "
	rules  []string // rules in chains of ours, without it too
}

// parseSaved reads what iptables-save prints. Whatever does not concern us, it
// skips.
func parseSaved(out string) installed {
	present := make(installed)
	table := ""
	for line := range strings.SplitSeq(out, "\n") {
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
			continue
		}
		p := present[table]
		if declared, ok := strings.CutPrefix(line, ":"+prefix); ok {
			name, _, _ := strings.Cut(declared, " ")
			p.chains = append(p.chains, prefix+name)
		}
		switch rule, ok := strings.CutPrefix(line, "-A "); {
		case ok && strings.HasPrefix(rule, prefix):
			p.rules = append(p.rules, rule)
		case ok && leadsToOurs(rule):
			p.jumps = append(p.jumps, rule)
		}
		if len(p.chains)+len(p.jumps) > 0 {
			present[table] = p
		}
	}
	return present
}

// leadsToOurs says whether a rule of another's chain has a chain of ours as
// its target. The target of a rule is saved last, and a chain has no options;
// a comment that ends in the same words ends in a quote.
func leadsToOurs(rule string) bool {
	words := strings.Fields(rule)
	if len(words) < 3 {
		return false
	}
	verb, target := words[len(words)-2], words[len(words)-1]
	return (verb == "-j" || verb == "-g") && strings.HasPrefix(target, prefix) && !strings.HasSuffix(target, `"`)
}

// closed says whether a rule of ours drops what nobody judges.
func (p presence) closed() bool {
	return slices.ContainsFunc(p.rules, func(rule string) bool {
		return strings.Contains(rule, " -j NFQUEUE ") && !strings.HasSuffix(rule, " --queue-bypass")
	})
}

// translates says whether a rule of ours has the kernel translate timestamps.
func (p presence) translates() bool {
	return slices.ContainsFunc(p.rules, func(rule string) bool { return strings.Contains(rule, " -j SYNPROXY") })
}

func (p installed) empty() bool { return len(p) == 0 }

// removal is the input for iptables-restore that takes all this away. Chains are
// emptied before any is deleted, as they lead to each other.
func removal(present installed) string { return without(present, nil) }

// retirement is removal, but for what connections need that stay open: Translation,
// and Closing, which FINs visit from now on without a detour.
func retirement(present installed) string {
	return without(present, func(w *writer) {
		for _, builtin := range []string{"PREROUTING", "OUTPUT"} {
			w.line("-I %s 1%s -j %s", builtin, fin, Closing)
		}
	})
}

// without takes all chains away, or, if there is something to be left, all but the two
// that stay, and leaves that.
func without(present installed, leave func(*writer)) string {
	w := &writer{}
	for _, t := range slices.Backward(tables) {
		p, ok := present[t.name]
		if !ok {
			continue
		}
		chains := slices.DeleteFunc(slices.Clone(p.chains), func(chain string) bool {
			return leave != nil && (chain == Translation || chain == Closing)
		})
		w.line("*%s", t.name)
		for _, jump := range p.jumps {
			w.line("-D %s", jump)
		}
		for _, chain := range chains {
			w.line("-F %s", chain)
		}
		for _, chain := range chains {
			w.line("-X %s", chain)
		}
		if leave != nil && slices.Contains(p.chains, Closing) {
			leave(w)
		}
		w.line("COMMIT")
	}
	return w.String()
}
