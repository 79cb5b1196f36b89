package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// onHangup says, until ctx ends, that SIGHUP changes nothing in this version;
// without this it would kill the daemon. It returns a function that waits for
// the end.
func onHangup(ctx context.Context, log *slog.Logger) (wait func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(hangup)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				log.Warn("SIGHUP: this version cannot reload; restart it to apply a changed file")
			}
		}
	}()
	return func() { <-done }
}
