package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"nfqfw/internal/control"
)

var update = flag.Bool("update", false, "rewrite what the scripts in testdata compare with")

// The scripts in testdata/script run this test's own binary as nfqfw.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nfqfw": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,

		UpdateScripts: *update,
		Cmds:          map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "big": big},
	})
}

// setup starts a fake daemon at $NFQFW_CONTROL, and another at $BROKEN.
func setup(env *testscript.Env) error {
	env.Setenv("GORACE", "atexit_sleep_ms=0") // no second's wait at the end of each nfqfw
	env.Setenv("TZ", "UTC")
	for name, handlers := range map[string]map[string]control.Handler{
		"NFQFW_CONTROL": listings,
		"BROKEN":        {"states": halfAnswer, "info": panics, "sources": panics},
		"EMPTY":         emptyListings,
	} {
		dir, err := os.MkdirTemp("", "nfqfw-")
		if err != nil {
			return err
		}
		env.Defer(func() { os.RemoveAll(dir) })
		path := filepath.Join(dir, "control.sock")
		server, err := control.Listen(path, handlers, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		env.Setenv(name, path)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- server.Serve(ctx) }()
		env.Defer(func() { cancel(); <-done })
	}
	return nil
}

// exits is a command of the scripts: exits CODE ARGS… runs nfqfw and compares
// its exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit interface{ ExitCode() int }
	if err := ts.Exec("nfqfw", args[1:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// big FILE MIB makes a file of so many zeros.
func big(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, nil, 0o600))
	ts.Check(os.Truncate(path, size<<20))
}

// A listing that is interrupted says so, and does not look like a whole one.
func TestInterrupted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	asked := make(chan struct{})
	server, err := control.Listen(path, map[string]control.Handler{
		"states": func(ctx context.Context, _ json.RawMessage, _ func(any) error) error {
			close(asked)
			<-ctx.Done()
			return ctx.Err()
		},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(t.Context())
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(errors.New("interrupt signal received"))
	}()
	var stdout, stderr strings.Builder
	code := run(ctx, []string{"states", "--control", path}, &stdout, &stderr)
	want := "nfqfw: states: interrupted: interrupt signal received\n"
	if code != exitFailed || stdout.String() != "" || stderr.String() != want {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
	}
}
