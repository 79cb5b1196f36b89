package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newMemory() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "Show the limits of all tables, as pfctl -s memory does",
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return show[control.Memory](cmd, &c, "memory", nil)
		}),
	}
	c.flags(cmd, "")
	return cmd
}
