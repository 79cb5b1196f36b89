package daemon

import (
	"fmt"
	"slices"

	"nfqfw/internal/config"
	"nfqfw/internal/engine"
)

// knowRules is an error if one of these names is neither a rule's nor one of others.
func (d *daemon) knowRules(command string, names []string, others ...string) error {
	known := append(d.ruleNames(), others...)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%s: no rule %q%s", command, name, config.DidYouMean(name, known))
		}
	}
	return nil
}

// ruleNames are the names of the rules, those that have vanished and have states
// included.
func (d *daemon) ruleNames() (names []string) {
	_ = d.engine.Rules(func(r *engine.ListedRule) error {
		names = append(names, r.Rule.Name)
		return nil
	})
	return names
}

// ruleNumbers are the numbers of the rules by their names. A rule that has vanished by
// a reload has none.
func (d *daemon) ruleNumbers() map[string]int {
	numbers := make(map[string]int)
	_ = d.engine.Rules(func(l *engine.ListedRule) error {
		if !l.Gone {
			numbers[l.Rule.Name] = l.Rule.Number
		}
		return nil
	})
	return numbers
}
