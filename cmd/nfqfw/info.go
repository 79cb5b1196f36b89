package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newInfo() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the table's use and why packets were dropped, as pfctl -s info does",
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return show[control.Info](cmd, &c, "info", nil)
		}),
	}
	c.flags(cmd, "show the source tracking table, and what each kind of limit refused, too")
	return cmd
}
