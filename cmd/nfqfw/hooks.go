package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/daemon"
	"nfqfw/internal/hooks"
)

func newHooks() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "hooks -c FILE",
		Short: "Print the iptables rules that run would install; change nothing",
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			c, err := readConfig(path)
			if err != nil {
				return err
			}
			h := daemon.Hooks(c)
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "# iptables-restore --noflush\n%s# ip6tables-restore --noflush\n%s",
				hooks.Rules(h, hooks.IPv4), hooks.Rules(h, hooks.IPv6))
			return err
		}),
	}
	configFlag(cmd, &path)
	return cmd
}
