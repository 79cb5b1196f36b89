package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newReload() *cobra.Command {
	var (
		socket string
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration file again",
		Long: `Have the daemon read its configuration file again, as SIGHUP does, and tell what is
wrong with it. A file with an error changes nothing.

States, counts, tables and rates live on with the rule of the same name. A lower limit
ends no connection. What a rule that has vanished has let in finishes under it.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return control.Call(cmd.Context(), socketPath(socket), "reload", nil, func(raw json.RawMessage) error {
				if asJSON {
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw)
					return err
				}
				var r control.Reloaded
				if err := json.Unmarshal(raw, &r); err != nil {
					return fmt.Errorf("reload: %w", err)
				}
				for _, warning := range r.Warnings {
					fmt.Fprintf(cmd.ErrOrStderr(), "nfqfw: warning: %s\n", warning)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "reloaded: %s\n", countRules(r.Rules))
				return err
			})
		}),
	}
	clientFlags(cmd, &socket, &asJSON)
	return cmd
}
