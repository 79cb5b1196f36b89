package main

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"nfqfw/internal/daemon"
)

func newRun() *cobra.Command {
	var (
		path, socket string
		debug        bool
	)
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Be the firewall, in the foreground, until SIGTERM",
		Long: `Be the firewall, in the foreground, until SIGTERM or Ctrl-C. Needs root.

It puts chains of its own, named NFQFW-..., into the tables raw and mangle of
iptables and ip6tables, and takes them away when it stops; "nfqfw hooks" prints
them. It has the kernel count the traffic of connections meanwhile
(net.netfilter.nf_conntrack_acct).`,
		Example: "  nfqfw run -c /etc/nfqfw.toml",
		Args:    noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			c, err := readConfig(path)
			if err != nil {
				return err
			}
			if socket != "" {
				if c.Daemon.Control, err = filepath.Abs(socket); err != nil {
					return err
				}
			}
			log := newLog(cmd.ErrOrStderr(), debug)
			logWarnings(log, path, c)
			ctx, cancel := context.WithCancel(cmd.Context())
			defer onHangup(ctx, log)()
			defer cancel()
			return daemon.Run(cmd.Context(), c, log)
		}),
	}
	configFlag(cmd, &path)
	controlFlag(cmd, &socket, "the file's [daemon] control")
	cmd.Flags().BoolVar(&debug, "debug", false, "log every dropped packet, a few a second at most")
	return cmd
}

func newLog(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
