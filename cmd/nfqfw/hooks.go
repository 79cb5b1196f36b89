package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"nfqfw/internal/config"
	"nfqfw/internal/daemon"
	"nfqfw/internal/hooks"
	"nfqfw/internal/ipset"
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
			out := cmd.OutOrStdout()
			if tables := hooks.Tables(c.Rules); len(tables) > 0 {
				fmt.Fprintln(out, "# ipset restore; run fills the sets, which follow their tables")
				for _, name := range tables {
					ipset.Create(out, name, c.Limits.TableEntries)
				}
			}
			if c.Daemon.BPF == config.BPFAuto {
				fmt.Fprintln(out, `# where it may, run adds rules that ask programs of BPF, which it pins (bpf = "auto")`)
			}
			_, err = fmt.Fprintf(out, "# iptables-restore --noflush\n%s# ip6tables-restore --noflush\n%s",
				hooks.Rules(h, hooks.IPv4), hooks.Rules(h, hooks.IPv6))
			return err
		}),
	}
	configFlag(cmd, &path)
	return cmd
}
