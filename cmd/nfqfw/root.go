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
	return exitMisuse
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "nfqfw",
		Short:         "A stateful firewall that limits what each client holds at a server",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,

		SuggestionsMinimumDistance: 2, // letters wrong
		RunE:                       func(cmd *cobra.Command, _ []string) error { return misuse(cmd, "no command given") },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misuse(cmd, err.Error()) })
	root.SetHelpCommand(newHelp())
	root.AddCommand(
		newRun(), newCheck(), newHooks(), newImport(), newReload(), newKill(), newTable(),
		newStates(), newSources(), newRules(), newInfo(), newTimeouts(), newMemory(), newRefusals(),
	)
	return root
}

// newHelp differs from cobra's in that it fails for a command it does not know.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) == 0 {
				return about.Help()
			}
			return knownCommand(cmd.Root(), args)
		},
	}
}

// knownCommand refuses what is left after cobra has looked for a command.
func knownCommand(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if alike := root.SuggestionsFor(args[0]); len(alike) > 0 {
		return fmt.Errorf("%s: no such command; did you mean %s?", args[0], strings.Join(alike, " or "))
	}
	return misuse(root, args[0]+": no such command")
}

// noArgs is for commands that take flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misuse(cmd, fmt.Sprintf("takes no arguments, but was given %q", args[0]))
	}
	return nil
}

// misuse is the error of a command line that means nothing.
func misuse(cmd *cobra.Command, text string) error {
	if cmd.HasParent() {
		text = cmd.Name() + ": " + text
	}
	return fmt.Errorf("%s; see %s --help", text, cmd.CommandPath())
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

func controlFlag(cmd *cobra.Command, path *string, unset string) {
	cmd.Flags().StringVar(path, "control", "", "the daemon's control socket (default "+unset+")")
}

// clientFlags are those of commands that ask the daemon.
func clientFlags(cmd *cobra.Command, socket *string, asJSON *bool) {
	cmd.Flags().BoolVar(asJSON, "json", false, "one JSON document")
	controlFlag(cmd, socket, "$NFQFW_CONTROL, or "+config.DefaultSocket)
}

// socketPath is where client commands look for the daemon.
func socketPath(flag string) string {
	if flag != "" {
		return flag
	}
	if env := os.Getenv("NFQFW_CONTROL"); env != "" {
		return env
	}
	return config.DefaultSocket
}
