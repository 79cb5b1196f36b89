package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"nfqfw/internal/control"
)

// The scripts in testdata/script run this test's own binary as nfqfw.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nfqfw": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: setup,
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "big": big},
	})
}

// setup starts a fake daemon at $NFQFW_CONTROL, and another at $BROKEN.
func setup(env *testscript.Env) error {
	env.Setenv("GORACE", "atexit_sleep_ms=0") // no second's wait at the end of each nfqfw
	for name, handlers := range map[string]map[string]control.Handler{
		"NFQFW_CONTROL": {"states": states(twoStates), "info": info},
		"BROKEN":        {"states": halfAnswer, "info": panics},
		"EMPTY":         {"states": states(nil)},
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

// states lists the states, or says what filter it was given.
func states(list []control.State) control.Handler {
	return func(_ context.Context, raw json.RawMessage, send func(any) error) error {
		var args control.StatesArgs
		if err := json.Unmarshal(raw, &args); err != nil {
			return err
		}
		if filter, _ := json.Marshal(args.Filter); string(filter) != "{}" {
			return fmt.Errorf("states: filter %s", filter)
		}
		out := control.NewStateSender(&args, send)
		for _, s := range list {
			if !args.Counters {
				s.Original, s.Reply = nil, nil
			}
			if err := out.Send(&s); err != nil {
				return err
			}
		}
		return out.Flush()
	}
}

func info(_ context.Context, _ json.RawMessage, send func(any) error) error {
	return send(control.Info{
		Status: "enabled", Uptime: (49*time.Hour + 5*time.Minute + 6*time.Second).Seconds(),
		States: control.Usage{Current: 12, Limit: 100000}, Sources: control.Usage{Current: 3, Limit: 10000},
		Counters: []control.NamedCounter{{Name: "match", Packets: 1767060}, {Name: "bad-offset", Packets: 0}, {Name: "max-src-conn", Packets: 88353}},
		Losses:   []control.NamedCounter{{Name: "queue-dropped", Packets: 353412}, {Name: "segments-failed", Packets: 0}},
		Syncookies: control.Syncookies{
			Mode: "adaptive", Sent: 50, Validated: 40, Invalid: 3, Pressure: control.Pressure{HalfOpen: 7, Start: 25000, End: 12000},
		},
		Adaptive: []control.Pressure{{Rule: "web", On: true, Since: &since, Switches: 3, HalfOpen: 90, Start: 127, End: 61}},
	})
}

func halfAnswer(ctx context.Context, args json.RawMessage, send func(any) error) error {
	if err := states(twoStates[:1])(ctx, args, send); err != nil {
		return err
	}
	return errors.New("states: the daemon is stopping")
}

func panics(context.Context, json.RawMessage, func(any) error) error { panic("odd") }

var (
	seven = uint8(7)
	since = 95.0
)

var twoStates = []control.State{
	{
		ID: "00000000000000ab", Interface: "eth0", Protocol: "tcp", State: "ESTABLISHED:FIN_WAIT_2",
		Source: control.Peer{Address: netip.MustParseAddr("198.51.100.7"), Port: 62709, State: "FIN_WAIT_2",
			SeqLo: 1000, SeqHi: 66536, WScale: &seven},
		Dest: control.Peer{Address: netip.MustParseAddr("192.0.2.10"), Port: 80, State: "ESTABLISHED",
			SeqLo: 4294967290, SeqHi: 10, SeqDiff: 4000000000, WScale: new(uint8)},
		Counts: true, Proxied: true, Rule: "web", Number: 1, Age: 90061.5, Expires: 44.9, Timeout: "tcp.closing",
		Original: &control.Counter{Packets: 5, Bytes: 400}, Reply: &control.Counter{Packets: 7, Bytes: 9000},
	},
	{
		ID: "00000000000000ac", Interface: "all", Protocol: "tcp", State: "PROXY:SRC",
		Source: control.Peer{Address: netip.MustParseAddr("2001:db8:1::7"), Port: 62709, State: "PROXY:SRC"},
		Dest:   control.Peer{Address: netip.MustParseAddr("2001:db8::10"), Port: 443, State: "CLOSED"},
		Rule:   "a <b>", Number: 12, Timeout: "tcp.first",
	},
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
