package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vishvananda/netns"
)

// sbin is where Debian keeps the programs of root.
const sbin = "/usr/sbin:/sbin"

// Feature is something a test needs and a machine may lack.
type Feature struct {
	name  string
	probe func() error // why it is missing
}

// What the tests on a real kernel need.
var (
	// Root is the privilege to change the network.
	Root = Feature{"root", probeRoot}
	// Namespaces is a kernel with network namespaces that root may make.
	Namespaces = Feature{"network namespaces", sync.OnceValue(probeNamespaces)}
	// IPTables is iptables and ip6tables with the NFQUEUE target in the tables
	// that the firewall uses.
	IPTables = Feature{"iptables NFQUEUE", sync.OnceValue(probeIPTables)}
)

// Program is the feature of a program that can be run.
func Program(name string) Feature {
	return Feature{name, func() error {
		_, err := exec.LookPath(name)
		return err
	}}
}

// Missing returns why the machine lacks the feature, or nil if it has it.
func (f Feature) Missing() error {
	if err := f.probe(); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// Require skips the test unless all features are there, and says why. In CI
// (environment CI=true) nothing may be missing, so there it fails the test.
func Require(tb TB, features ...Feature) {
	tb.Helper()
	for _, f := range features {
		err := f.probe()
		switch {
		case err == nil:
		case os.Getenv("CI") == "true":
			tb.Fatalf("needs %s, and must not be skipped in CI: %v", f.name, err)
		default:
			tb.Skipf("needs %s: %v", f.name, err)
		}
	}
}

// Ready returns the absolute path of the firewall's program if the machine has all that
// a program on the lab needs, and else an error that says what to do.
func Ready(binary string, programs ...string) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("not root: run it as root, for example with sudo make")
	}
	// Debian's root has these in his PATH only if he logged in as such.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":"+sbin); err != nil {
		return "", err
	}
	path, err := exec.LookPath(binary)
	if err != nil {
		return "", fmt.Errorf("no nfqfw: %w: \"make build\" makes bin/nfqfw", err)
	}
	var missing []string
	for _, name := range programs {
		if Program(name).Missing() != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("not installed: %s: \"make setup\" installs what is needed", strings.Join(missing, ", "))
	}
	for _, f := range []Feature{Namespaces, IPTables} {
		if err := f.Missing(); err != nil {
			return "", fmt.Errorf("%w: the lab needs a kernel that has it", err)
		}
	}
	return filepath.Abs(path)
}

func probeRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("not root")
	}
	return nil
}

func probeNamespaces() error {
	if err := probeRoot(); err != nil {
		return err
	}
	return inScratch(func() error { return nil })
}

// probeIPTables adds rules in a namespace that nobody else sees.
func probeIPTables() error {
	if err := probeRoot(); err != nil {
		return err
	}
	return inScratch(func() error {
		for _, program := range []string{"iptables", "ip6tables"} {
			for _, table := range []string{"raw", "mangle"} {
				cmd := exec.CommandContext(context.Background(), program, "-t", table,
					"-A", "PREROUTING", "-p", "tcp", "-j", "NFQUEUE", "--queue-num", "0", "--queue-bypass")
				if out, err := cmd.CombinedOutput(); err != nil {
					return fmt.Errorf("%s -t %s: %w: %s", program, table, err, out)
				}
			}
		}
		return nil
	})
}

// inScratch calls f in a nameless namespace that goes away with it.
func inScratch(f func() error) error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	return runIn(home, func() error {
		scratch, err := netns.New()
		if err != nil {
			return err
		}
		defer scratch.Close()
		return f()
	})
}
