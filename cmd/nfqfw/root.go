package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
)

// Exit codes, as in DESIGN: part of what scripts rely on.
const (
	exitDone   = 0
	exitFailed = 1
	exitMisuse = 2
)

// failure is an error of a command that was called correctly.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run is the program, without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(stderr, "nfqfw: %s\n", strings.TrimSuffix(line, "\n"))
	}
	if errors.As(err, new(failure)) {
		return exitFailed
	}
	fmt.Fprintln(stderr, "nfqfw: see nfqfw --help")
	return exitMisuse
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "nfqfw",
		Short:         "A stateful firewall that limits what each client holds at a server",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("which command?")
		},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newRun(), newCheck(), newHooks(), newStates())
	return root
}

// does turns an error of f into a failure, as opposed to a misuse.
func does(f func(*cobra.Command) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := f(cmd); err != nil {
			return failure{err}
		}
		return nil
	}
}

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the configuration file (TOML)")
	if err := cmd.MarkFlagRequired("config"); err != nil {
		panic(err) // the flag was defined on the line before
	}
}

func controlFlag(cmd *cobra.Command, path *string, unset string) {
	cmd.Flags().StringVar(path, "control", "", "the daemon's control socket (default "+unset+")")
}

// socketPath is where client commands look for the daemon.
func socketPath(flag string) string {
	if flag != "" {
		return flag
	}
	if env := os.Getenv("NFQFW_CONTROL"); env != "" {
		return env
	}
	return control.DefaultSocket
}

// readConfig reads and checks a file; every line of its error names the file.
func readConfig(path string) (*config.Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := config.Parse(data)
	if err == nil {
		return c, nil
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i, line := range lines {
		lines[i] = path + ": " + line
	}
	return nil, errors.New(strings.Join(lines, "\n"))
}
