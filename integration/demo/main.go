// Command demo shows what nfqfw is for, on a lab of network namespaces and
// with real programs: an attacker who holds every worker of a server, the limit
// that stops him before the server hears of him, an honest client that is
// served meanwhile, and which dying connections count. Every step says what it
// does and what one should see, and fails if that is not what happens.
//
// It needs root and the programs that integration/setup.sh installs, and leaves
// nothing behind. "make demo" does it all.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"nfqfw/integration"
)

// needed are the programs that the demo runs.
var needed = []string{"iptables", "ip6tables", "apache2", "slowhttptest", "curl", "timeout"}

// options are what the command line says.
type options struct {
	binary   string
	policies []string
}

func main() {
	ctx, stop := integration.Interruptible()
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program, without the process around it.
func run(ctx context.Context, args []string, stdout *os.File, stderr io.Writer) int {
	opts, err := parse(args, stderr)
	return integration.ExitCode("demo", stderr, err, func() (err error) {
		if opts.binary, err = integration.Ready(opts.binary, needed...); err != nil {
			return err
		}
		return play(ctx, opts, newReport(stdout))
	})
}

// parse reads the command line.
func parse(args []string, help io.Writer) (options, error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	binary := flags.String("nfqfw", "bin/nfqfw", "the program `FILE`, as \"make build\" makes it")
	policy := flags.String("policy", "both", "the rule's state `POLICY` to show: synproxy, keep or both")
	if err := integration.ParseFlags(flags, args, "usage: demo [-nfqfw FILE] [-policy POLICY]   (root)", help); err != nil {
		return options{}, err
	}
	switch *policy {
	case "both":
		return options{*binary, []string{"synproxy", "keep"}}, nil
	case "synproxy", "keep":
		return options{*binary, []string{*policy}}, nil
	}
	return options{}, fmt.Errorf("-policy %q: must be synproxy, keep or both", *policy)
}
