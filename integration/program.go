package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/signal"
	"syscall"
)

// Exit codes of a program on the lab, as those of nfqfw itself.
const (
	ExitDone   = 0
	ExitFailed = 1
	ExitMisuse = 2
)

// Interruptible is the context of a program on the lab. With SIGPIPE asked for, a reader
// that goes away is an error of a write, and the lab is closed as ever.
func Interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
}

// ParseFlags reads the command line of a program that takes flags only. It explains them
// if that is asked for, and then returns flag.ErrHelp.
func ParseFlags(flags *flag.FlagSet, args []string, usage string, help io.Writer) error {
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(help, usage)
		flags.SetOutput(help)
		flags.PrintDefaults()
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("argument %q: there are none, only flags", flags.Arg(0))
	}
	return err
}

// ExitCode is that of a program whose command line was read with the error
// misuse, and that does something if there is none. It tells of errors.
func ExitCode(name string, stderr io.Writer, misuse error, do func() error) int {
	if errors.Is(misuse, flag.ErrHelp) {
		return ExitDone
	}
	if misuse != nil {
		fmt.Fprintf(stderr, "%s: %v: see -help\n", name, misuse)
		return ExitMisuse
	}
	if err := do(); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitFailed
	}
	return ExitDone
}
