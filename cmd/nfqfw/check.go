package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/hooks"
	"nfqfw/internal/table"
	"nfqfw/rules"
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
		Long: `Report every error in a configuration file and in the files that its tables name,
and every rule that is about connections which this machine's nat table forwards
(DNAT, REDIRECT), as far as the user may read that. What is allowed and has no effect is a warning.`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			c, err := readConfig(path)
			if err != nil {
				return err
			}
			printWarnings(cmd.ErrOrStderr(), path, c)
			if _, err := table.Load(0, c.Tables, c.Limits.TableEntries); err != nil {
				return inFile(path, err)
			}
			if err := checkForwards(cmd, path, c.Rules); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok, %s\n", path, countRules(len(c.Rules)))
			return err
		}),
	}
	configFlag(cmd, &path)
	return cmd
}

// checkForwards looks for rules about connections that nat forwards. That nobody
// can tell is no error: the file may be for another machine.
func checkForwards(cmd *cobra.Command, path string, list []rules.Rule) error {
	forwards, err := hooks.Forwards(cmd.Context())
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "nfqfw: the nat table is not looked at: %v\n", err)
	}
	var all []error
	for _, err := range hooks.Conflicts(forwards, list) {
		all = append(all, fmt.Errorf("%s: %w", path, err))
	}
	return errors.Join(all...)
}
