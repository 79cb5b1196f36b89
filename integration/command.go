package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take to end after SIGTERM.
const stopGrace = 3 * time.Second

// Command is an exec.Cmd whose process runs inside a namespace, in a process
// group of its own, and is ended with the lab. Its fields are set before Start
// as usual.
type Command struct {
	*exec.Cmd

	ns      *Namespace
	waited  chan struct{} // closed when the process is reaped
	wait    func() error
	started bool
}

// Command returns a command to run inside the namespace. When ctx ends, its
// process group gets SIGTERM, and SIGKILL a little later.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *Command {
	c := &Command{Cmd: exec.CommandContext(ctx, name, args...), ns: n, waited: make(chan struct{})}
	// The parent-death signal is the polite one, for a server that takes its
	// children along.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	c.Cancel = func() error { return c.signal(syscall.SIGTERM) }
	c.WaitDelay = stopGrace
	c.wait = sync.OnceValue(c.reap)
	return c
}

// Start starts the process without waiting for it.
func (c *Command) Start() error {
	if err := c.ns.onResident(c.Cmd.Start); err != nil {
		return err
	}
	l := c.ns.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	c.started = true
	l.commands[c] = struct{}{}
	return nil
}

// Wait waits for the process to end; it can be called more than once and from
// several goroutines.
func (c *Command) Wait() error {
	if !c.started {
		return errors.New("wait for command: not started")
	}
	return c.wait()
}

// Run starts the process and waits for it.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Command) Output() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout = &b
	err := c.Run()
	return b.Bytes(), err
}

// CombinedOutput runs the command and returns what it wrote to both outputs.
func (c *Command) CombinedOutput() ([]byte, error) {
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	err := c.Run()
	return b.Bytes(), err
}

// Feed runs a program inside the namespace to its end, with text as its standard
// input, such as iptables-restore(8) with rules.
func (n *Namespace) Feed(ctx context.Context, text, name string, args ...string) error {
	c := n.Command(ctx, name, args...)
	c.Stdin = strings.NewReader(text)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w: %s", name, n.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Stop asks the process group to end, kills it if it does not, and returns
// what Wait returns. Stopping an ended process does nothing.
func (c *Command) Stop() error {
	if !c.started {
		return nil
	}
	_ = c.signal(syscall.SIGTERM) // it may have ended by itself
	kill := time.AfterFunc(stopGrace, func() { _ = c.signal(syscall.SIGKILL) })
	defer kill.Stop()
	return c.Wait()
}

// ended tells whether the process was reaped.
func (c *Command) ended() bool {
	select {
	case <-c.waited:
		return true
	default:
		return false
	}
}

// signal signals the whole group, which exists as long as its leader is not
// reaped.
func (c *Command) signal(s syscall.Signal) error {
	if c.ended() {
		return nil
	}
	if err := syscall.Kill(-c.Process.Pid, s); err != nil {
		return fmt.Errorf("signal %s: %w", c.Path, err)
	}
	return nil
}

// reap collects the process, once.
func (c *Command) reap() error {
	err := c.Cmd.Wait()
	close(c.waited)
	l := c.ns.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.commands, c)
	return err
}
