package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newSources() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "sources",
		Short: "List the sources that are tracked, as pfctl -s Sources does",
		Long: `List the sources that are tracked, as pfctl -s Sources does: states that were
admitted, connections that count, and how many were admitted in the time that
max_src_conn_rate looks back.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return list[control.Source](cmd, &c, "sources", nil)
		}),
	}
	c.flags(cmd, "show ages, expiry and rules too")
	return cmd
}
