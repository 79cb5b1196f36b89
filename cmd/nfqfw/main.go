// Command nfqfw is a stateful firewall for TCP services that decides in user
// space, over Netfilter's NFQUEUE: the daemon (run) and the commands that ask
// it or check its configuration.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
