// Command bench measures nfqfw beside what else stands before servers: nothing, the
// kernel's conntrack, its SYN proxy and its connection limit, and HAProxy; on a lab of
// network namespaces, in turns, and in several rounds. It checks first that each of
// them does its work. It writes a table, a chart and the raw numbers.
//
// It needs root and the programs that integration/setup.sh installs, and leaves nothing
// behind. "make bench" does it all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"nfqfw/integration"
)

const (
	fullRounds  = 5
	quickRounds = 1
	// fullBudget is how long a run may take.
	fullBudget = 19 * time.Minute
)

// options are what the command line says.
type options struct {
	binary    string
	dir       string
	rounds    int
	quick     bool
	size      size
	budget    time.Duration
	scenarios []scenario
	peers     []string // keys; none: all
}

func main() {
	ctx, stop := integration.Interruptible()
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program, without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args, stderr)
	return integration.ExitCode("bench", stderr, err, func() error { return perform(ctx, opts, stdout) })
}

// needed are the programs of peers and loads.
var needed = []string{"iptables", "ip6tables", "iptables-restore", "nft", "conntrack", "haproxy", "iperf3"}

// perform measures and writes the results.
func perform(ctx context.Context, opts options, stdout io.Writer) (err error) {
	if opts.binary, err = integration.Ready(opts.binary, needed...); err != nil {
		return err
	}
	b := &bench{options: opts, out: stdout}
	err = b.measure(ctx)
	if left, failed := leftovers(); failed != nil || len(left) > 0 {
		err = errors.Join(err, failed, fmt.Errorf("left behind: %s", strings.Join(left, ", ")))
	}
	if err != nil {
		return err
	}
	machine, err := describe(ctx)
	if err != nil {
		return err
	}
	if err := write(opts.dir, newResults(b, machine, commit(ctx))); err != nil {
		return err
	}
	if len(b.failures) > 0 {
		return fmt.Errorf("%d measurements failed:\n%s", len(b.failures), strings.Join(b.failures, "\n"))
	}
	return nil
}

// leftovers are the namespaces of this process that are still there.
func leftovers() ([]string, error) {
	names, err := integration.Leftovers()
	own := fmt.Sprintf("nfqfw-%d-", os.Getpid())
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, own) }), err
}

// parse reads the command line.
func parse(args []string, help io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.binary, "nfqfw", "bin/nfqfw", "the program `FILE`, as \"make build\" makes it")
	flags.StringVar(&o.dir, "out", "bench", "write results into `DIR`")
	flags.IntVar(&o.rounds, "rounds", 0, fmt.Sprintf("how many `ROUNDS` (default %d, with -quick %d)", fullRounds, quickRounds))
	flags.DurationVar(&o.budget, "budget", fullBudget, "begin no round that would end after this `TIME`")
	flags.BoolVar(&o.quick, "quick", false, "a short run, to see that all works; nothing to compare by")
	only := flags.String("only", "", "only these `SCENARIOS`, separated by commas: "+strings.Join(scenarioKeys(), ", "))
	some := flags.String("peers", "", "only these `PEERS`: "+strings.Join(peerKeys(), ", "))
	if err := integration.ParseFlags(flags, args, "usage: bench [flags]   (root)", help); err != nil {
		return options{}, err
	}
	return o.complete(words(*only), words(*some))
}

// complete fills in what follows from the flags, and checks them.
func (o options) complete(only, some []string) (options, error) {
	rounds := fullRounds
	o.size = fullSize
	if o.quick {
		o.size, rounds = quickSize, quickRounds
	}
	if o.rounds == 0 {
		o.rounds = rounds
	}
	if o.rounds < 0 || o.budget <= 0 {
		return o, errors.New("-rounds and -budget: must be positive")
	}
	if err := known("-only", only, scenarioKeys()); err != nil {
		return o, err
	}
	if err := known("-peers", some, peerKeys()); err != nil {
		return o, err
	}
	o.peers = some
	o.scenarios = slices.DeleteFunc(slices.Clone(scenarios), func(sc scenario) bool {
		return len(only) > 0 && !slices.Contains(only, sc.key) || !slices.ContainsFunc(sc.peers, o.asked)
	})
	if len(o.scenarios) == 0 {
		return o, fmt.Errorf("-peers %s: none of them has a part in -only %s", strings.Join(some, ","), strings.Join(only, ","))
	}
	return o, nil
}

// known returns an error if a word is none of those that a flag may have.
func known(name string, list, all []string) error {
	for _, word := range list {
		if !slices.Contains(all, word) {
			return fmt.Errorf("%s %q: must be of %s", name, word, strings.Join(all, ", "))
		}
	}
	return nil
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func scenarioKeys() (keys []string) {
	for _, sc := range scenarios {
		keys = append(keys, sc.key)
	}
	return keys
}

func peerKeys() (keys []string) {
	for _, p := range peers {
		keys = append(keys, p.key)
	}
	return keys
}
