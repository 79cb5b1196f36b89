package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfqfw/internal/nfq"
)

// packetCounters are the numbers of iptables-save that change by themselves.
var packetCounters = regexp.MustCompile(`(?m) \[\d+:\d+\]$`)

// tables is what iptables-save and its twin say of the gateway, less what
// changes by itself.
func tables(t *testing.T, l *Lab) string {
	t.Helper()
	var all strings.Builder
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		out := must[[]byte](t, tool)(l.Gateway.Command(t.Context(), tool).Output())
		for line := range strings.Lines(string(out)) {
			if !strings.HasPrefix(line, "#") {
				all.WriteString(packetCounters.ReplaceAllString(line, ""))
			}
		}
	}
	return all.String()
}

func checkTables(t *testing.T, l *Lab, what, want string) {
	t.Helper()
	if diff := cmp.Diff(want, tables(t, l)); diff != "" {
		t.Errorf("iptables-save %s: -want +got:\n%s", what, diff)
	}
}

// accounting is the gateway's setting of conntrack's counters.
func accounting(t *testing.T, l *Lab) string {
	t.Helper()
	out := must[[]byte](t, "accounting")(l.Gateway.Command(t.Context(), "cat", "/proc/sys/net/netfilter/nf_conntrack_acct").Output())
	return strings.TrimSpace(string(out))
}

// addRules gives the gateway rules of its administrator's own, none of which
// makes use of conntrack.
func addRules(t *testing.T, l *Lab) {
	t.Helper()
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, rule := range []string{
			"-t raw -A PREROUTING -p udp -j ACCEPT",
			"-t mangle -A FORWARD -p tcp --dport 80 -j MARK --set-xmark 0x1/0xff",
			"-t filter -N ADMIN", "-t filter -A INPUT -p tcp -j ADMIN",
		} {
			out, err := l.Gateway.Command(t.Context(), tool, strings.Fields(rule)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%s %s: %v %s", tool, rule, err, out)
			}
		}
	}
}

// openSessions opens and proves connections to a server that closes its side
// when the client has.
func openSessions(ctx context.Context, t *testing.T, l *Lab, at place, f Family, n int) (*AcceptCounter, []*net.TCPConn) {
	t.Helper()
	srv := must[*AcceptCounter](t, "listen")(at.ns(l).CountAccepts(
		netip.AddrPortFrom(at.addr(f), 80), AcceptOptions{Echo: true, CloseOnEOF: true}))
	h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: n})
	if h.Count(Held) != n {
		t.Fatalf("%v, want %d held", h, n)
	}
	return srv, h.Conns()
}

// closeSession closes the client's side and waits until the server has closed its own.
func closeSession(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if err := c.CloseWrite(); err != nil {
		t.Errorf("close: %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || !isEOF(err) {
		t.Errorf("close: the server's side: %d octets, %v", n, err)
	}
	_ = c.Close()
}

func isEOF(err error) bool { return outcomeOf(err) == Closed }

// The daemon leaves nothing behind, and disturbs nothing that is others'.
func TestStopLeavesNothing(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	Require(t, IPTables)
	addRules(t, l)
	before := tables(t, l)
	f := startFirewall(t, l, fmt.Sprintf(webRule, "synproxy", 10))
	if got := accounting(t, l); got != "1" {
		t.Errorf("accounting is %s while the daemon runs", got)
	}
	_, conns := openSessions(ctx, t, l, places[0], IPv4, 3)
	if strings.Count(tables(t, l), "-j NFQFW-PREROUTING") != 4 {
		t.Errorf("hooks missing:\n%s", tables(t, l))
	}
	for _, c := range conns {
		closeSession(t, c)
	}
	waitClosed(ctx, t, f)
	if err := f.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	checkTables(t, l, "after SIGTERM", before)
	if got := accounting(t, l); got != "0" {
		t.Errorf("accounting is %s after SIGTERM", got)
	}
	if _, err := os.Lstat(f.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the control socket is left: %v", err)
	}
	if log := told(f.Log()); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") || strings.Contains(log, "nfqfw:") {
		t.Errorf("nothing was to be warned of:\n%s", log)
	}
}

// What the administrator had turned on stays on.
func TestStopKeepsAccounting(t *testing.T) {
	l := newLab(t, Options{})
	if err := l.Gateway.Sysctl("net.netfilter.nf_conntrack_acct", "1"); err != nil {
		t.Fatal(err)
	}
	f := startFirewall(t, l, fmt.Sprintf(webRule, "keep", 10))
	if err := f.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if got := accounting(t, l); got != "1" {
		t.Errorf("accounting is %s after SIGTERM, and was 1", got)
	}
}

// While the daemon is dead, what is established goes on and can close, and new
// connections obey when_down. The next daemon takes over the chains.
func TestKill(t *testing.T) {
	for _, whenDown := range []string{"closed", "open"} {
		for _, policy := range []string{"synproxy", "keep"} {
			for i, at := range places {
				t.Run(fmt.Sprintf("%s/%s/%s", whenDown, policy, at.name), func(t *testing.T) {
					testKill(t, whenDown, policy, at, Families[i])
				})
			}
		}
	}
}

func testKill(t *testing.T, whenDown, policy string, at place, f Family) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	config := fmt.Sprintf("[daemon]\nwhen_down = %q\n%s", whenDown, fmt.Sprintf(webRule, policy, 10))
	fw := startFirewall(t, l, config)
	hooked := tables(t, l)
	srv, conns := openSessions(ctx, t, l, at, f, 3)
	if err := fw.Kill(); err != nil {
		t.Fatal(err)
	}
	checkTables(t, l, "after SIGKILL", hooked)
	if out, err := fw.Command(ctx, "states"); err == nil || !strings.HasSuffix(out, "or name its socket with --control or $NFQFW_CONTROL\n") {
		t.Errorf("states after SIGKILL: %q, %v", out, err)
	}
	for _, c := range conns {
		echo(t, c)
	}
	closeSession(t, conns[0])
	want := map[string]Outcome{"closed": TimedOut, "open": Held}[whenDown]
	down := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 1, Timeout: 300 * time.Millisecond})
	if down.Count(want) != 1 {
		t.Errorf("a new connection while the daemon is dead: %v %v, want %v", down, down.Attempts[0].Err, want)
	}

	if err := fw.Start(ctx); err != nil {
		t.Fatal(err)
	}
	checkTables(t, l, "after the restart", hooked)
	for _, c := range append(conns[1:], down.Conns()...) {
		echo(t, c)
		closeSession(t, c)
	}
	h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 3})
	if h.Count(Held) != 3 {
		t.Errorf("after the restart: %v, want 3 held", h)
	}
	for _, c := range h.Conns() {
		closeSession(t, c)
	}
	waitClosed(ctx, t, fw)
	stopAndLeave(t, fw, l, false)
}

// failsToRun runs a second daemon on the gateway and expects it to end with
// exit code 1 and one line. adjust changes the command before it starts.
func failsToRun(t *testing.T, f *Firewall, want string, adjust func(*Command), args ...string) {
	t.Helper()
	c := f.namespace.Command(testContext(t), f.binary, append([]string{"run", "-c", f.config}, args...)...)
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	if adjust != nil {
		adjust(c)
	}
	err := c.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want exit code 1", err)
	}
	match := must[*regexp.Regexp](t, "pattern")(regexp.Compile("^" + want + "\n$"))
	if stdout.Len() > 0 || !match.MatchString(told(stderr.String())) {
		t.Errorf("stdout %q, stderr\n%swant\n%s", stdout.String(), stderr.String(), want)
	}
}

// What cannot run says why in one line, and leaves the daemon that runs, its
// hooks and settings alone.
func TestCannotRun(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	fw := startFirewall(t, l, fmt.Sprintf(webRule, "synproxy", 5))
	_, conns := openSessions(ctx, t, l, places[0], IPv4, 4)
	hooked := tables(t, l)
	dir := filepath.Dir(fw.config)
	other := filepath.Join(dir, "other.sock")
	nobody := func(c *Command) {
		if err := os.Chmod(filepath.Dir(fw.binary), 0o755); err != nil {
			t.Fatal(err)
		}
		c.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	noTools := func(c *Command) { c.Env = []string{"PATH=" + dir} }

	failsToRun(t, fw, "nfqfw: control: "+fw.socket+": a daemon is running there; stop it first, or choose another socket with --control", nil, "--control", fw.socket)
	failsToRun(t, fw, `nfqfw: nfq: open queue 7400: taken by another process \(netlink port \d+\); is nfqfw running already\? --takeover goes on in its place`, nil, "--control", other)
	failsToRun(t, fw, "nfqfw: daemon: not permitted to filter packets; run as root, or with CAP_NET_ADMIN and CAP_NET_RAW", nobody, "--control", other)
	failsToRun(t, fw, "nfqfw: hooks: iptables-save: not found in PATH; install the iptables package", noTools, "--control", other)
	failsToRun(t, fw, "nfqfw: control: /proc/nfqfw/control.sock: no such file or directory", nil, "--control", "/proc/nfqfw/control.sock")
	failsToRun(t, fw, "nfqfw: control: "+fw.config+": exists and is not a socket; choose another path, or remove it", nil, "--control", fw.config)

	checkTables(t, l, "after six that could not run", hooked)
	if got := accounting(t, l); got != "1" {
		t.Errorf("accounting is %s, and was 1", got)
	}
	if _, err := os.Lstat(other); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a control socket is left: %v", err)
	}
	for _, c := range conns {
		echo(t, c)
	}
	// The limit is 5, and 4 are held.
	h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(IPv4, 0), To: netip.AddrPortFrom(ServerAddr(IPv4), 80), N: 2})
	if h.Count(Held) != 1 {
		t.Errorf("the first daemon: %v, want one held and one refused", h)
	}

	c := fw.namespace.Command(ctx, fw.binary, "states", "--control", fw.socket)
	nobody(c)
	out, err := c.CombinedOutput()
	if want := "nfqfw: " + fw.socket + ": permission denied; only the user that runs the daemon, or the group that its file names, may ask it\n"; err == nil || string(out) != want {
		t.Errorf("states as nobody: %q, %v", out, err)
	}
}

// What a start that fails has turned on it turns off again.
func TestFailedStartSettles(t *testing.T) {
	l := newLab(t, Options{})
	fw := startFirewall(t, l, fmt.Sprintf(webRule, "synproxy", 5))
	if err := fw.Stop(); err != nil {
		t.Fatal(err)
	}
	var q *nfq.Queue
	err := l.Gateway.Do(func() (err error) {
		c := nfq.Default()
		c.Number = 7400
		q, err = nfq.Open(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	failsToRun(t, fw, `nfqfw: nfq: open queue 7400: taken by another process \(netlink port \d+\); is nfqfw running already\? --takeover goes on in its place`, nil)
	if got := accounting(t, l); got != "0" {
		t.Errorf("accounting is %s after a start that failed, and was 0", got)
	}
}

// useConntrack gives the gateway a rule of its administrator's own that makes
// the kernel track connections, whether nfqfw runs or not.
func useConntrack(t *testing.T, l *Lab) {
	t.Helper()
	for _, tool := range []string{"iptables", "ip6tables"} {
		out, err := l.Gateway.Command(t.Context(), tool, "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v %s", tool, err, out)
		}
	}
}

// Where the kernel tracks connections anyway, none fails because the daemon
// starts or stops meanwhile, whether it was there before or stays behind, or
// begins at that very moment.
func TestStartAndStopUnderTraffic(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			ctx := testContext(t)
			l := newLab(t, Options{})
			Require(t, IPTables)
			useConntrack(t, l)
			srv, conns := openSessions(ctx, t, l, places[0], IPv4, 2)
			end := traffic(ctx, t, l, IPv4, srv.Addr())
			fw := startFirewall(t, l, fmt.Sprintf(webRule, policy, 100))
			h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(IPv4, 0), To: srv.Addr(), N: 2})
			if h.Count(Held) != 2 {
				t.Errorf("%v, want 2 held", h)
			}
			conns = append(conns, h.Conns()...)
			for _, c := range conns {
				echo(t, c)
			}
			if err := fw.Stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			end()
			for _, c := range conns {
				echo(t, c)
				closeSession(t, c)
			}
		})
	}
}

// traffic opens connections one after the other, from several sources, until
// end is called. The server closes its side when the client has.
func traffic(ctx context.Context, t *testing.T, l *Lab, f Family, to netip.AddrPort) (end func()) {
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for opened := 1; ; opened++ {
				select {
				case <-stop:
					return
				default:
				}
				h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, i+2), To: to, N: 1})
				if h.Count(Held) != 1 {
					t.Errorf("connection %d of client %d: %v %v", opened, i, h, h.Attempts[0].Err)
					return
				}
				closeSession(t, h.Conns()[0])
			}
		})
	}
	return func() {
		close(stop)
		clients.Wait()
	}
}

// Where nothing but our hooks uses conntrack, the kernel knows no connection
// from before the start. What comes of one belongs to no state, and is refused.
func TestStartResetsUnknownConnections(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	_, conns := openSessions(ctx, t, l, places[0], IPv4, 1)
	startFirewall(t, l, fmt.Sprintf(webRule, "keep", 10))
	_, err := conns[0].Write([]byte("."))
	if err == nil {
		_ = conns[0].SetReadDeadline(time.Now().Add(3 * time.Second))
		_, err = conns[0].Read(make([]byte, 1))
	}
	if outcomeOf(err) != Reset {
		t.Errorf("got %v, want a reset", err)
	}
}

// Sessions go on when the daemon stops, and when it is back. For proxied ones a
// chain is left that has the kernel go on translating, whether or not other rules
// make use of conntrack; it goes with the daemon that stops when they are over.
func TestStopWithOpenSessions(t *testing.T) {
	for _, tt := range []struct {
		policy  string
		tracked bool // by a rule of the administrator's
	}{
		{"keep", false}, {"keep", true}, {"synproxy", false}, {"synproxy", true},
	} {
		for i, at := range places {
			t.Run(fmt.Sprintf("%s/tracked=%t/%s", tt.policy, tt.tracked, at.name), func(t *testing.T) {
				ctx, l := testContext(t), newLab(t, Options{})
				Require(t, IPTables)
				if tt.tracked {
					useConntrack(t, l)
				}
				fw := startFirewall(t, l, fmt.Sprintf(webRule, tt.policy, 10))
				_, conns := openSessions(ctx, t, l, at, Families[i], 2)
				stopAndLeave(t, fw, l, true)
				echo(t, conns[0])
				closeSession(t, conns[0])
				if err := fw.Start(ctx); err != nil {
					t.Fatal(err)
				}
				echo(t, conns[1])
				closeSession(t, conns[1])
				waitClosed(ctx, t, fw)
				stopAndLeave(t, fw, l, false)
			})
		}
	}
}

// waitClosed waits until the daemon has seen the end of every connection.
func waitClosed(ctx context.Context, t *testing.T, fw *Firewall) {
	t.Helper()
	var open []string
	err := Poll(ctx, func() bool {
		open = nil
		list, err := fw.States(ctx)
		for _, s := range list {
			if s.State != "FIN_WAIT_2:FIN_WAIT_2" {
				open = append(open, s.State)
			}
		}
		return err == nil && len(open) == 0
	})
	if err != nil {
		t.Errorf("open: %v, %v", open, err)
	}
}

// stopAndLeave stops the daemon, which leaves the chains that keep open connections
// going, if there are any, or nothing.
func stopAndLeave(t *testing.T, fw *Firewall, l *Lab, open bool) {
	t.Helper()
	if err := fw.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	got := tables(t, l)
	chains, jumps, target := strings.Count(got, ":NFQFW-"), strings.Count(got, "-j NFQFW-"), strings.Count(got, "-A NFQFW-TRANSLATE -p tcp -j SYNPROXY")
	if n := map[bool]int{true: len(Families)}[open]; chains != 2*n || target != n || jumps != 2*n {
		t.Errorf("open connections: %v; left in the tables:\n%s", open, got)
	}
}
