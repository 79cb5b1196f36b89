package daemon

import (
	"fmt"
	"slices"

	"nfqfw/internal/config"
	"nfqfw/internal/engine"
)

// knowRules is an error if there is no rule of one of these names.
func (d *daemon) knowRules(command string, names []string) error {
	known := d.ruleNames()
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
