package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var buildDir string

// program builds nfqfw, once for all tests.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nfqfw-build-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // tests run it as other users
		return "", err
	}
	path := filepath.Join(dir, "nfqfw")
	args := []string{"build", "-o", path}
	cgo := "0" // as make build does
	if raceEnabled {
		cgo = "1"
		args = append(args, "-race")
		// A race is told when it happens: the program need not wait a second for
		// it at its end.
		if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
			return "", err
		}
	}
	build := exec.Command("go", append(args, "nfqfw/cmd/nfqfw")...)
	build.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// told is what a daemon says, less the line of one that is linked with C, as for the
// detector of races.
func told(log string) string {
	lines := strings.SplitAfter(log, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool {
		return raceEnabled && strings.Contains(line, "no privilege is dropped")
	}), "")
}

// pause is how long nothing may be heard where nothing should be.
const pause = 50 * time.Millisecond

// startFirewall runs the daemon on the lab's gateway; if the test fails, its
// log is shown.
func startFirewall(t testing.TB, l *Lab, config string) *Firewall {
	t.Helper()
	Require(t, IPTables)
	binary := must[string](t, "build")(program())
	f := must[*Firewall](t, "firewall")(l.Gateway.StartFirewall(t.Context(), binary, config))
	stopAtEnd(t, f)
	return f
}

// stopAtEnd stops the daemon when the test is over.
func stopAtEnd(t testing.TB, f *Firewall) {
	t.Cleanup(func() {
		if err := f.Stop(); err != nil {
			t.Errorf("firewall: stop: %v", err)
		}
		if t.Failed() {
			t.Logf("firewall's log:\n%s", f.Log())
		}
	})
}

// A place is where the server stands: behind the gateway, or on it.
type place struct {
	name string
	ns   func(*Lab) *Namespace
	addr func(Family) netip.Addr
}

var places = []place{
	{"forwarded", func(l *Lab) *Namespace { return l.Server }, ServerAddr},
	{"local", func(l *Lab) *Namespace { return l.Gateway }, GatewayAddr},
}

// everywhere runs a test for each state policy, place and family.
func everywhere(t *testing.T, run func(t *testing.T, policy string, at place, f Family)) {
	for _, policy := range []string{"synproxy", "keep"} {
		under(t, policy, places, Families, run)
	}
}

// under runs a test for one state policy, and not necessarily everywhere.
func under(t *testing.T, policy string, at []place, families []Family, run func(t *testing.T, policy string, at place, f Family)) {
	for _, at := range at {
		for _, f := range families {
			t.Run(fmt.Sprintf("%s/%s/%v", policy, at.name, f), func(t *testing.T) { run(t, policy, at, f) })
		}
	}
}

const webRule = `
[[rule]]
name = "web"
on = ["eth0"]
port = [80]
state = %q
max_src_conn = %d
`

// 100 connections at a limit of 10: the server accepts ten, the others hear a
// reset at once, and another client is served meanwhile.
func TestLimitHolds(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		ctx := testContext(t)
		l := newLab(t, Options{})
		startFirewall(t, l, fmt.Sprintf(webRule, policy, 10))
		srv := must[*AcceptCounter](t, "listen")(at.ns(l).CountAccepts(netip.AddrPortFrom(at.addr(f), 80), AcceptOptions{Echo: true}))
		attack := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 100})
		expectRefusals(t, attack, srv, 10)
		// In IPv6 a source is a /64, so the other client is of another.
		other := l.Client.Hold(ctx, HoldOptions{From: CrowdAddr(f, 1), To: srv.Addr(), N: 3})
		if other.Count(Held) != 3 {
			t.Errorf("another client: %v", other)
		}
	})
}

// The same with all 100 at once.
func TestLimitHoldsConcurrently(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		ctx := testContext(t)
		l := newLab(t, Options{})
		startFirewall(t, l, fmt.Sprintf(webRule, policy, 10))
		srv := must[*AcceptCounter](t, "listen")(at.ns(l).CountAccepts(netip.AddrPortFrom(at.addr(f), 80), AcceptOptions{Echo: true}))
		attack := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 100, Concurrency: 100})
		expectRefusals(t, attack, srv, 10)
	})
}

func expectRefusals(t *testing.T, h *Holder, srv *AcceptCounter, limit int) {
	t.Helper()
	if h.Count(Held) != limit || h.Count(Refused)+h.Count(Reset) != len(h.Attempts)-limit {
		t.Errorf("%v, want %d held and the others reset", h, limit)
	}
	if srv.Count() != limit {
		t.Errorf("the server accepted %d, want %d", srv.Count(), limit)
	}
	for _, a := range h.Attempts {
		if a.Outcome != Held && a.Elapsed > time.Second {
			t.Errorf("%v after %v: that is not at once", a.Outcome, a.Elapsed)
			break
		}
	}
}

// waitState waits until the daemon shows exactly these states ("server:client").
func waitStates(ctx context.Context, t *testing.T, f *Firewall, want map[string]int) {
	t.Helper()
	var got map[string]int
	err := Poll(ctx, func() bool {
		got = make(map[string]int)
		list, err := f.States(ctx)
		if err != nil {
			return false
		}
		for _, s := range list {
			got[s.State]++
		}
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
	if err != nil {
		t.Errorf("states %v, want %v", got, want)
	}
}
