package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"nfqfw/internal/control"
)

// readyTimeout is how long the daemon may take to put its hooks in.
const readyTimeout = 20 * time.Second

// Firewall is the daemon, running in a namespace.
type Firewall struct {
	namespace *Namespace
	process   *Command
	binary    string
	through   []string // the words before the program's: a program that starts it in its own place
	config    string   // the file's path
	socket    string
	log       syncBuffer
}

// StartFirewall runs the program binary with a configuration (TOML, without
// [daemon] control) and waits until its hooks are in.
func (n *Namespace) StartFirewall(ctx context.Context, binary, config string) (*Firewall, error) {
	return n.startFirewall(ctx, binary, "nfqfw.toml", config)
}

// StartFirewallThrough is StartFirewall by way of another program, such as setpriv(1),
// which may run as any user.
func (n *Namespace) StartFirewallThrough(ctx context.Context, through []string, binary, config string) (*Firewall, error) {
	f, err := n.newFirewall(binary, "nfqfw.toml", config)
	if err != nil {
		return nil, err
	}
	f.through = through
	// Where every user may make a socket.
	f.socket = filepath.Join(filepath.Dir(f.config), "socket", "control.sock")
	if err := os.Mkdir(filepath.Dir(f.socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Dir(f.socket), 0o777); err != nil {
		return nil, err
	}
	return f, f.Start(ctx)
}

// StartPF is StartFirewall with a ruleset in pf's grammar.
func (n *Namespace) StartPF(ctx context.Context, binary, ruleset string) (*Firewall, error) {
	return n.startFirewall(ctx, binary, "pf.conf", ruleset)
}

func (n *Namespace) startFirewall(ctx context.Context, binary, name, config string) (*Firewall, error) {
	f, err := n.newFirewall(binary, name, config)
	if err != nil {
		return nil, err
	}
	return f, f.Start(ctx)
}

// newFirewall is one that does not run yet, but has its file.
func (n *Namespace) newFirewall(binary, name, config string) (*Firewall, error) {
	dir, err := n.lab.TempDir()
	if err != nil {
		return nil, err
	}
	f := &Firewall{
		namespace: n, binary: binary,
		config: filepath.Join(dir, name), socket: filepath.Join(dir, "control.sock"),
	}
	return f, f.Configure(config)
}

// Start runs the daemon again after it has stopped.
func (f *Firewall) Start(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	process := f.process
	go func() { _ = process.Wait() }() // so that its end is noticed
	var answer error
	err := Poll(ctx, func() bool {
		_, answer = f.States(ctx)
		return answer == nil || f.ended()
	})
	if err = errors.Join(err, answer); err != nil {
		return errors.Join(fmt.Errorf("firewall: not ready: %w\n%s", err, f.Log()), f.process.Stop())
	}
	return nil
}

// begin runs the daemon.
func (f *Firewall) begin(ctx context.Context, more ...string) error {
	words := append(slices.Clone(f.through), f.binary, "run", "-c", f.config, "--control", f.socket)
	words = append(words, more...)
	f.process = f.namespace.Command(context.WithoutCancel(ctx), words[0], words[1:]...)
	f.process.Stderr = &f.log
	if err := f.process.Start(); err != nil {
		return fmt.Errorf("firewall: %w", err)
	}
	return nil
}

// Takeover runs another daemon in the place of the one that runs, and waits until that
// has ended.
func (f *Firewall) Takeover(ctx context.Context) error {
	old := f.process
	if err := f.begin(ctx, "--takeover"); err != nil {
		return err
	}
	process := f.process
	go func() { _ = process.Wait() }() // so that its end is noticed
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case <-old.waited:
	case <-f.process.waited:
		return fmt.Errorf("firewall: the new daemon has ended\n%s", f.Log())
	case <-ctx.Done():
		return fmt.Errorf("firewall: the old daemon has not ended\n%s", f.Log())
	}
	if !old.ProcessState.Success() {
		return fmt.Errorf("firewall: the old daemon: %v\n%s", old.ProcessState, f.Log())
	}
	return nil
}

func (f *Firewall) ended() bool {
	select {
	case <-f.process.waited:
		return true
	default:
		return false
	}
}

// Stop ends the daemon with SIGTERM.
func (f *Firewall) Stop() error { return f.process.Stop() }

// Kill ends the daemon with SIGKILL: its hooks stay.
func (f *Firewall) Kill() error {
	if err := f.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	_ = f.process.Wait() // it was killed
	return nil
}

// Signal sends the daemon a signal.
func (f *Firewall) Signal(s syscall.Signal) error { return f.process.signal(s) }

// Pid is the daemon's process number.
func (f *Firewall) Pid() int { return f.process.Process.Pid }

// Log is what the daemon has logged so far.
func (f *Firewall) Log() string { return f.log.String() }

// States asks the daemon for its states.
func (f *Firewall) States(ctx context.Context) ([]control.State, error) {
	var list []control.State
	err := control.Call(ctx, f.socket, "states", control.StatesArgs{Counters: true}, func(raw json.RawMessage) error {
		var s control.State
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		list = append(list, s)
		return nil
	})
	return list, err
}

// Info asks the daemon for its counters.
func (f *Firewall) Info(ctx context.Context) (control.Info, error) {
	var i control.Info
	err := control.Call(ctx, f.socket, "info", nil, func(raw json.RawMessage) error { return json.Unmarshal(raw, &i) })
	return i, err
}

// Refusals asks the daemon for the last refusals of a source.
func (f *Firewall) Refusals(ctx context.Context, source netip.Addr) ([]control.Refusal, error) {
	var list []control.Refusal
	args := control.RefusalsArgs{Source: netip.PrefixFrom(source, source.BitLen())}
	err := control.Call(ctx, f.socket, "refusals", args, func(raw json.RawMessage) error {
		var r control.Refusals
		if err := json.Unmarshal(raw, &r); err != nil {
			return err
		}
		list = append(list, r.Refusals...)
		return nil
	})
	return list, err
}

// Command runs a client command of the program, such as "states -v", against
// the daemon, and returns what it prints.
func (f *Firewall) Command(ctx context.Context, args ...string) (string, error) {
	out, err := f.namespace.Command(ctx, f.binary, append(args, "--control", f.socket)...).CombinedOutput()
	return string(out), err
}

// Configure writes another configuration into the daemon's file.
func (f *Firewall) Configure(config string) error {
	return os.WriteFile(f.config, []byte(config), 0o644)
}

// Reload has the daemon take another configuration, by "nfqfw reload", and returns
// what that prints.
func (f *Firewall) Reload(ctx context.Context, config string) (string, error) {
	if err := f.Configure(config); err != nil {
		return "", err
	}
	return f.Command(ctx, "reload")
}

// syncBuffer is a buffer that may be read while a process writes to it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is all that was written.
func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
