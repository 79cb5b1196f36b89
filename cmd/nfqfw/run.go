package main

import (
	"context"
	"io"
	"log/slog"

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
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			c, err := readConfig(path)
			if err != nil {
				return err
			}
			if socket != "" {
				c.Daemon.Control = socket
			}
			log := newLog(cmd.ErrOrStderr(), debug)
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
