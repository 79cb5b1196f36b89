package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfqfw/conntrack"
	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
)

// testDaemon is one that has never touched the kernel.
func testDaemon(t testing.TB, file string) *daemon {
	t.Helper()
	c, err := config.Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDaemon(c, Options{Log: slog.New(slog.DiscardHandler)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d.engine = d.newEngine(c)
	return d
}

func TestHooksOfConfig(t *testing.T) {
	d := testDaemon(t, "[daemon]\nqueues = 3\nwhen_down = \"open\"\n[[rule]]\nport = [80]\n")
	h := Hooks(d.config.Load())
	if h.FirstQueue != firstQueue || h.LastQueue != firstQueue+2 || !h.Open || len(h.Rules) != 1 {
		t.Errorf("%+v", h)
	}
	h = Hooks(config.Default())
	if n := int(h.LastQueue-h.FirstQueue) + 1; n != runtime.NumCPU() || h.Open {
		t.Errorf("default: %d queues, %+v", n, h)
	}
}

func TestJoinNew(t *testing.T) {
	a, again, b := errors.New("a"), errors.New("a"), errors.New("b")
	for _, tt := range []struct {
		first, second error
		want          string
	}{
		{nil, nil, "<nil>"}, {a, nil, "a"}, {nil, b, "b"}, {a, b, "a\nb"}, {a, again, "a"},
	} {
		if got := fmt.Sprint(joinNew(tt.first, tt.second)); got != tt.want {
			t.Errorf("joinNew(%v, %v) = %q, want %q", tt.first, tt.second, got, tt.want)
		}
	}
}

func TestInfo(t *testing.T) {
	d := testDaemon(t, "[limits]\nstates = 7\nsrc_nodes = 5\n")
	d.engine.Counters().Passed.Add(11)
	d.engine.Counters().Reasons[packet.ReasonShort].Add(2)
	d.started = time.Now().Add(-time.Minute)
	var got *control.Info
	err := d.info(t.Context(), nil, func(item any) error { got = item.(*control.Info); return nil })
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != "enabled" || got.States != (control.Usage{Limit: 7}) || got.Sources != (control.Usage{Limit: 5}) || got.Uptime < 60 || got.Uptime > 90 {
		t.Errorf("%+v", got)
	}
	var names []string
	for _, c := range got.Counters {
		names = append(names, c.Name)
		if want := map[string]uint64{"match": 11, "short": 2}[c.Name]; c.Packets != want {
			t.Errorf("%s: %d, want %d", c.Name, c.Packets, want)
		}
	}
	const losses = "[{queue-dropped 0} {queue-user-dropped 0} {verdict-errors 0} {segments-failed 0} {panics 0}]"
	if fmt.Sprint(got.Losses) != losses {
		t.Errorf("losses %v, want %s", got.Losses, losses)
	}
	const order = "match bad-offset fragment short normalize memory ip-option proto-cksum tcp-option state-mismatch src-limit synproxy max-src-conn max-src-conn-rate max-src-states max-src-nodes max block"
	if !strings.HasPrefix(strings.Join(names, " ")+" ", order+" ") {
		t.Errorf("counters %v, want %s …", names, order)
	}
}

func TestListed(t *testing.T) {
	tuple := packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:62709"), netip.MustParseAddrPort("192.0.2.10:80"))
	l := &engine.Listed{
		State: conntrack.State{
			Tuple: tuple, ID: 171, Rule: 1, SeqDiff: 9, Timeout: conntrack.TCPFirst,
			Src: conntrack.Peer{State: conntrack.FinWait2, SeqLo: 5, SeqHi: 8, WScale: 7, HasWScale: true},
			Dst: conntrack.Peer{State: conntrack.Established, SeqLo: 6, SeqHi: 9},
		},
		RuleName: "web", RuleNumber: 1, Age: 1500 * time.Millisecond, ExpiresIn: 30 * time.Second, Counting: true,
	}
	d := testDaemon(t, "")
	seven := uint8(7)
	want := &control.State{
		ID: "00000000000000ab", Interface: "all", Protocol: "tcp", State: "ESTABLISHED:FIN_WAIT_2", Counts: true,
		Source: control.Peer{Address: netip.MustParseAddr("198.51.100.7"), Port: 62709, State: "FIN_WAIT_2", SeqLo: 5, SeqHi: 8, WScale: &seven},
		Dest:   control.Peer{Address: netip.MustParseAddr("192.0.2.10"), Port: 80, State: "ESTABLISHED", SeqLo: 6, SeqHi: 9, SeqDiff: 9},
		Rule:   "web", Number: 1, Age: 1.5, Expires: 30, Timeout: "tcp.first",
	}
	compareAddr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, d.listed(l), compareAddr); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	l.Src.State = conntrack.ProxySrc
	if got := d.listed(l).State; got != "PROXY:SRC" {
		t.Errorf("a handshake is shown as %s", got)
	}
}

func TestStatesOfNothing(t *testing.T) {
	d := testDaemon(t, "")
	none := func(any) error { t.Error("an item"); return nil }
	if err := d.states(t.Context(), nil, none); err != nil {
		t.Error(err)
	}
	if err := d.states(t.Context(), []byte(`{"counters":7}`), none); err == nil || !strings.HasPrefix(err.Error(), "states: ") {
		t.Errorf("got %v", err)
	}
}

// dropPrivileges makes the test's thread an ordinary user's. The thread ends
// with the test.
func dropPrivileges(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // it is one
	}
	runtime.LockOSThread()
	const nobody = 65534
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
		t.Fatal(errno)
	}
}

// Without privileges Run says so, and makes not even the control socket.
func TestRunNotPermitted(t *testing.T) {
	c := config.Default()
	c.Daemon.Control = filepath.Join(t.TempDir(), "control.sock")
	done := make(chan error)
	go func() {
		dropPrivileges(t)
		load := func() (*config.Config, error) { return c, nil }
		done <- Run(context.Background(), Options{Load: load, Log: slog.New(slog.DiscardHandler)})
	}()
	const want = "daemon: not permitted to filter packets; run as root, or with CAP_NET_ADMIN and CAP_NET_RAW"
	if err := <-done; fmt.Sprint(err) != want {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(c.Daemon.Control); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket was made: %v", err)
	}
}

func TestInterfaces(t *testing.T) {
	n := newInterfaces()
	if got := n.link(0); got != (link{}) {
		t.Errorf("no interface is %+v", got)
	}
	if got := n.link(1<<31 - 1); got != (link{}) {
		t.Errorf("an unknown interface is %+v", got)
	}
	if got := n.name(1) + " " + n.name(1<<31-1); got != "lo all" {
		t.Errorf("names %s", got)
	}
	n.links = nil
	if got := n.link(1); got.name != "lo" || got.mtu == 0 || !n.exists("lo") || n.exists("ol") {
		t.Errorf("the first interface is %+v, want lo", got)
	}
	n.links = map[uint32]link{1: {name: "lo", mtu: 1}}
	if n.refresh(); n.link(1).mtu == 1 {
		t.Error("a change of MTU goes unnoticed")
	}
}

func TestClampMSS(t *testing.T) {
	four := packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:1"), netip.MustParseAddrPort("192.0.2.10:80"))
	six := packet.TupleFrom(netip.MustParseAddrPort("[2001:db8:1::7]:1"), netip.MustParseAddrPort("[2001:db8::10]:80"))
	for _, tt := range []struct {
		name   string
		tuple  packet.Tuple
		mtu    int
		mss    uint16
		expect uint16
	}{
		{"it fits", four, 1500, 1460, 1460},
		{"one too many", four, 1499, 1460, 1459},
		{"IPv6", six, 1500, 1460, 1440},
		{"a small interface", four, 576, 1460, 536},
		{"a small side", four, 1500, 536, 536},
		{"it says nothing", four, 1500, 0, 0},
		{"the interface is not known", four, 0, 9000, 9000},
		{"the interface is smaller than the headers", six, 60, 1460, 1460},
		{"more than an MSS can say", four, 1 << 20, 65535, 65535},
	} {
		p := packet.Packet{Tuple: tt.tuple, Options: packet.Options{MSS: tt.mss}}
		if clampMSS(&p, tt.mtu); p.Options.MSS != tt.expect {
			t.Errorf("%s: %d, want %d", tt.name, p.Options.MSS, tt.expect)
		}
	}
}
