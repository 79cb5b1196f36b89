package main

import (
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"nfqfw/internal/config"
	"nfqfw/internal/daemon"
)

func newRun() *cobra.Command {
	var (
		path, socket string
		debug        bool
		takeover     bool
	)
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Be the firewall, in the foreground, until SIGTERM",
		Long: `Be the firewall, in the foreground, until SIGTERM or Ctrl-C. Needs root, or
CAP_NET_ADMIN and CAP_NET_RAW; it drops all else. SIGHUP has it read
the file again, as "nfqfw reload" does.

It puts chains of its own, named NFQFW-..., into the tables raw and mangle of
iptables and ip6tables, and takes them away when it stops; "nfqfw hooks" prints
them. Meanwhile it has the kernel count the traffic of connections, and note when they
began (net.netfilter.nf_conntrack_acct, nf_conntrack_timestamp).`,
		Example: "  nfqfw run -c /etc/nfqfw.toml",
		Args:    noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			log := newLog(cmd.ErrOrStderr(), debug)
			load := func() (*config.Config, error) { return loadConfig(path, socket, log) }
			return daemon.Run(cmd.Context(), daemon.Options{Load: load, Reload: hangup, Log: log, Takeover: takeover})
		}),
	}
	configFlag(cmd, &path)
	controlFlag(cmd, &socket, "the file's [daemon] control")
	cmd.Flags().BoolVar(&takeover, "takeover", false, "go on in the place of the daemon that runs, which ends; no packet is lost")
	cmd.Flags().BoolVar(&debug, "debug", false, "log every dropped packet, a few a second at most")
	return cmd
}

// loadConfig reads the file as it is now; a socket that is named goes before the
// file's.
func loadConfig(path, socket string, log *slog.Logger) (*config.Config, error) {
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	if socket != "" {
		if c.Daemon.Control, err = filepath.Abs(socket); err != nil {
			return nil, err
		}
	}
	logWarnings(log, path, c)
	return c, nil
}

func newLog(w io.Writer, debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
