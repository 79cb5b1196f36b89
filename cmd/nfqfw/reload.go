package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newReload() *cobra.Command {
	var c client
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its configuration file again",
		Long: `Have the daemon read its configuration file again, as SIGHUP does, and tell what is
wrong with it. A file with an error changes nothing.

States, counts, tables and rates live on with the rule of the same name. A lower limit
ends no connection. What a rule that has vanished has let in finishes under it.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return ask(cmd, &c, "reload", nil, func(r *control.Reloaded) error {
				if c.asJSON {
					return nil
				}
				for _, warning := range r.Warnings {
					fmt.Fprintf(cmd.ErrOrStderr(), "nfqfw: warning: %s\n", warning)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "reloaded: %s\n", countRules(r.Rules))
				return err
			})
		}),
	}
	c.flags(cmd, "")
	return cmd
}
