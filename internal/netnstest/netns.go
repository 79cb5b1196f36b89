// Package netnstest gives a test a network namespace of its own, for the
// packages that talk to the kernel. Whole labs are in package integration.
package netnstest

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

// Skip skips a test, which in CI is a failure.
func Skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("in CI nothing is skipped: ", why)
	}
	t.Skip(why)
}

// New moves the test's thread into a new network namespace with loopback up.
// The test keeps its thread, which dies with it, and the namespace with the
// thread.
func New(t testing.TB) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root for a network namespace")
	}
	runtime.LockOSThread() // never unlocked
	ns, err := netns.New()
	if err != nil {
		Skip(t, "no network namespace: "+err.Error())
	}
	t.Cleanup(func() { ns.Close() })
	Run(t, "ip link set lo up")
	return ns
}

// Enter moves the test's thread into a namespace that New has made.
func Enter(t testing.TB, ns netns.NsHandle) {
	t.Helper()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
}

// Run runs commands in the thread's namespace and returns the output of the
// last. Words are parted by spaces; there is no shell.
func Run(t testing.TB, lines ...string) (out string) {
	t.Helper()
	for _, line := range lines {
		words := strings.Fields(line)
		b, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if out = string(b); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	return out
}
