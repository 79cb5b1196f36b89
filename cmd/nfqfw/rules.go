package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newRules() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "List the rules in pf's grammar, as pfctl -s rules does",
		Long: `List the rules in pf's grammar, as pfctl -s rules does. Evaluations and refusals are
counted since the daemon's start; packets and octets are those of the states there
are now, by the kernel's count, which takes some seconds for a million states.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return list[control.Rule](cmd, &c, "rules", control.RulesArgs{Counters: c.verbose > 0 || c.asJSON})
		}),
	}
	c.flags(cmd, "show counters and refusals; twice: numbers too")
	return cmd
}
