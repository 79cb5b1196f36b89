package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newRefusals() *cobra.Command {
	var (
		c    client
		args control.RefusalsArgs
	)
	cmd := &cobra.Command{
		Use:   "refusals",
		Short: "List the last connections that were refused, and why",
		Long: `List the last connections that a rule or a limit refused, the last one last: when,
from where, to where, why, and by which rule. "max-src-conn 10/10" is that the source
had 10 connections of the 10 it may have; "max-src-conn-rate 100/10s (100 admitted)"
is a rate. With enforce = false the rule would have refused it.

The last 10,000 are remembered.`,
		Example: "  nfqfw refusals --since 10m --source 198.51.100.0/24",
		Args:    noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			return show[control.Refusals](cmd, &c, "refusals", args)
		}),
	}
	flags := cmd.Flags()
	flags.Func("since", "only those of the last `DURATION`, such as 10m", func(text string) error {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return errors.New("not a duration (such as 90s, 10m, 1h30m)")
		}
		args.Since = d.Seconds()
		return nil
	})
	networkFlag(cmd, "source", &args.Source, "only those from `HOST|NET`")
	flags.StringArrayVar(&args.Rules, "rule", nil, "only those by rule `NAME`; may be said again, for more rules")
	c.flags(cmd, "")
	return cmd
}
