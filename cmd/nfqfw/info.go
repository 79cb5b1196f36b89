package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newInfo() *cobra.Command {
	var (
		socket  string
		verbose bool
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "info",
		Short: "Show the table's use and why packets were dropped, as pfctl -s info does",
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return control.Call(cmd.Context(), socketPath(socket), "info", nil, func(raw json.RawMessage) error {
				if asJSON {
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw)
					return err
				}
				var i control.Info
				if err := json.Unmarshal(raw, &i); err != nil {
					return fmt.Errorf("info: %w", err)
				}
				return i.WriteText(cmd.OutOrStdout(), verbose)
			})
		}),
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the source tracking table too")
	clientFlags(cmd, &socket, &asJSON)
	return cmd
}
