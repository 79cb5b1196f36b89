package integration

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A service manager hears that the daemon is ready when the hooks are in, that it is well
// all the time, that it reloads, and that it stops.
func TestServiceManagerHears(t *testing.T) {
	ctx, l := testContext(t), newLab(t, Options{})
	Require(t, IPTables)
	path := filepath.Join(openFolder(t), "notify")
	manager := must[*net.UnixConn](t, "listen")(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))
	defer manager.Close()
	through := []string{"env", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=400000"}
	binary, config := must[string](t, "build")(program()), fmt.Sprintf(webRule, "keep", 1)
	type started struct {
		fw  *Firewall
		err error
	}
	start := make(chan started, 1)
	go func() {
		fw, err := l.Gateway.StartFirewallThrough(ctx, through, binary, config)
		start <- started{fw, err}
	}()
	ready := hear(t, manager, "")
	hooks := tables(t, l)
	s := <-start
	fw := must[*Firewall](t, "firewall")(s.fw, s.err)
	stopAtEnd(t, fw)
	if want := fmt.Sprintf("READY=1\nMAINPID=%d", fw.Pid()); ready != want || !strings.Contains(hooks, "NFQFW") {
		t.Errorf("hears %q, want %q; and the tables are\n%s", ready, want, hooks)
	}
	for range 3 {
		if got := hear(t, manager, ""); got != "WATCHDOG=1" {
			t.Errorf("hears %q", got)
		}
	}
	if out, err := fw.Reload(ctx, config); err != nil {
		t.Errorf("reload: %v: %s", err, out)
	}
	if got := hear(t, manager, "WATCHDOG=1"); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("hears %q", got)
	}
	if got := hear(t, manager, "WATCHDOG=1"); got != ready {
		t.Errorf("hears %q", got)
	}
	if err := fw.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if got := hear(t, manager, "WATCHDOG=1"); got != "STOPPING=1" {
		t.Errorf("hears %q", got)
	}
}

// hear is what the manager hears next, but for one thing.
func hear(t *testing.T, manager *net.UnixConn, but string) string {
	t.Helper()
	b := make([]byte, 4096)
	for {
		_ = manager.SetReadDeadline(time.Now().Add(readyTimeout))
		n, err := manager.Read(b)
		if err != nil {
			t.Fatalf("the manager hears nothing: %v", err)
		}
		if got := string(b[:n]); got != but {
			return got
		}
	}
}
