package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newTimeouts() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "timeouts",
		Short: "Show the lifetimes of states, as pfctl -s timeouts does",
		Long: `Show the lifetimes of states, as pfctl -s timeouts does. A rule may have its own;
"nfqfw rules" shows those.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return show[control.Timeouts](cmd, &c, "timeouts", nil)
		}),
	}
	c.flags(cmd, "")
	return cmd
}
