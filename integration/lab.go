// Package integration is a laboratory of three network namespaces in which
// the firewall meets a real kernel and real programs, and the tests and
// benchmarks that run in it.
//
//	 client                        gateway                         server
//	+-----------------------+     +-----------------------+      +-----------------+
//	| 198.51.100.7 - .20    |     | 198.51.100.1          |      |                 |
//	| 2001:db8:1::7 - ::20  |     | 2001:db8:1::1         |      |                 |
//	|                  eth0 +-----+ eth0             eth1 +------+ eth0            |
//	|                       |     |            192.0.2.1  |      | 192.0.2.10      |
//	| 203.0.113.7 - .20     |     |        2001:db8::1    |      | 2001:db8::10    |
//	| 2001:db8:2::7 - ::20  |     |                       |      |                 |
//	|                  eth1 +.....+ eth2                  |      |                 |
//	+-----------------------+     | 203.0.113.1           |      +-----------------+
//	 198.18.0.0/15,               | 2001:db8:2::1         |
//	 2001:2::/48 behind eth0      +-----------------------+
//
// The dotted link exists with Options.SecondClientNet. Every address is from
// a documentation or benchmarking range, and no link leaves the lab. A server
// on the firewall itself is one that listens on GatewayAddr in the gateway.
package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// namePrefix starts the name of everything the lab leaves in a global place.
const namePrefix = "nfqfw-"

// labs numbers the laboratories of this process.
var labs atomic.Int64

// TB is the part of testing.TB that the lab needs. It is declared here so
// that a program can use the lab without linking package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Options are the choices in building a lab; the zero value is a good one.
type Options struct {
	// SecondClientNet adds a second client network on the gateway's eth2.
	SecondClientNet bool
	// NoTxChecksum turns transmit checksum offload off on every interface, so
	// that packets carry full checksums on the virtual wires too.
	NoTxChecksum bool
}

// Lab is three connected network namespaces and what runs in them.
type Lab struct {
	Client  *Namespace
	Gateway *Namespace
	Server  *Namespace

	name  string
	close func() error

	mu       sync.Mutex // guards what follows: tests start and end things concurrently
	dir      string
	commands map[*Command]struct{}
	closers  []func() error
}

// New opens a lab that is closed when the test ends; it ends the test if that
// fails. Tests that cannot run everywhere call Require first.
func New(tb TB, opts Options) *Lab {
	tb.Helper()
	l, err := Open(opts)
	if err != nil {
		tb.Fatalf("open lab: %v", err)
		return nil
	}
	tb.Cleanup(func() {
		if err := l.Close(); err != nil {
			tb.Errorf("close lab: %v", err)
		}
	})
	return l
}

// Open sweeps away what dead processes left behind and builds a lab. It needs
// root. The caller closes it.
func Open(opts Options) (*Lab, error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	l := &Lab{
		name:     fmt.Sprintf("%s%d-%d", namePrefix, os.Getpid(), labs.Add(1)),
		commands: make(map[*Command]struct{}),
	}
	l.close = sync.OnceValue(l.teardown)
	if err := l.build(opts); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close ends the processes started in the lab, closes its servers and held
// connections and removes the namespaces. Sockets that the caller made with
// Dial, Listen or Do are his to close. A second Close does nothing.
func (l *Lab) Close() error { return l.close() }

// TempDir returns a directory, readable by everyone, that goes with the lab.
func (l *Lab) TempDir() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != "" {
		return l.dir, nil
	}
	dir, err := os.MkdirTemp("", l.name+"-")
	if err != nil {
		return "", err
	}
	l.dir = dir
	// The programs under test drop their privileges before they read files.
	return dir, os.Chmod(dir, 0o755)
}

// build makes the namespaces, in the order in which they show in a listing,
// and wires them.
func (l *Lab) build(opts Options) error {
	for _, n := range []struct {
		role string
		at   **Namespace
	}{{"client", &l.Client}, {"gateway", &l.Gateway}, {"server", &l.Server}} {
		ns, err := newNamespace(l, l.name+"-"+n.role)
		if err != nil {
			return err
		}
		*n.at = ns
	}
	return l.wire(opts)
}

// namespaces returns those that were made so far.
func (l *Lab) namespaces() []*Namespace {
	var all []*Namespace
	for _, n := range []*Namespace{l.Client, l.Gateway, l.Server} {
		if n != nil {
			all = append(all, n)
		}
	}
	return all
}

// onClose registers what must be closed with the lab, last in first out.
func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// teardown undoes everything, and goes on after an error: whatever can be
// removed must be.
func (l *Lab) teardown() error {
	l.stopCommands()
	errs := []error{l.runClosers()}
	for _, n := range l.namespaces() {
		errs = append(errs, n.close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

func (l *Lab) runClosers() error {
	l.mu.Lock()
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	var errs []error
	for i := len(closers) - 1; i >= 0; i-- {
		errs = append(errs, closers[i]())
	}
	return errors.Join(errs...)
}

// stopCommands ends all started processes at once, so that the slowest one
// decides how long it takes and not their sum.
func (l *Lab) stopCommands() {
	l.mu.Lock()
	running := make([]*Command, 0, len(l.commands))
	for c := range l.commands {
		running = append(running, c)
	}
	l.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range running {
		wg.Go(func() { _ = c.Stop() }) // how a killed process ended is no news
	}
	wg.Wait()
}

// pollEvery is how often Poll looks; short, because a lab reacts within
// microseconds and tests wait for it often.
const pollEvery = 2 * time.Millisecond

// Poll calls cond until it is true, and returns an error when ctx ends first.
func Poll(ctx context.Context, cond func() bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for condition: %w", ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
