package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func countRules(n int) string {
	switch n {
	case 0:
		return "no rules: everything passes"
	case 1:
		return "1 rule"
	}
	return fmt.Sprintf("%d rules", n)
}

func newCheck() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Report every error in a configuration file",
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			c, err := readConfig(path)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %s\n", path, countRules(len(c.Ruleset.Rules())))
			return err
		}),
	}
	configFlag(cmd, &path)
	return cmd
}
