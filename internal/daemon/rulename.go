package daemon

import (
	"fmt"
	"slices"

	"nfqfw/internal/config"
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

// ruleNames are the names of the rules.
func (d *daemon) ruleNames() (names []string) {
	for i := range d.config.Rules {
		names = append(names, d.config.Rules[i].Name)
	}
	return names
}
