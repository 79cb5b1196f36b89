package integration

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListen proves that a listener is in its namespace and no other.
func TestListen(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	for _, n := range l.namespaces() {
		ln := must[*net.TCPListener](t, "listen")(n.Listen(netip.MustParseAddrPort("[::]:8080")))
		defer ln.Close()
		if s := must[Sockets](t, "sockets")(n.Sockets(Listen)); len(s.Local(8080)) != 1 {
			t.Errorf("%s: %v, want one listener", n.Name, s)
		}
	}
	for _, f := range Families { // the three, from the client
		for _, a := range []netip.Addr{ClientAddr(f, 0), GatewayAddr(f), ServerAddr(f)} {
			c := must[*net.TCPConn](t, "dial")(l.Client.Dial(ctx, netip.AddrPort{}, netip.AddrPortFrom(a, 8080)))
			_ = c.Close()
		}
	}
}

func TestDo(t *testing.T) {
	l := newLab(t, Options{})
	home := namespaceID(t)
	main := must[string](t, "main thread")(os.Readlink("/proc/self/ns/net"))
	var inside string
	for range 100 {
		err := l.Client.Do(func() error {
			inside = namespaceID(t)
			if now, _ := os.Readlink("/proc/self/ns/net"); now != main {
				t.Error("the main thread is in a namespace of the lab")
			}
			return nil
		})
		if err != nil || inside == home || namespaceID(t) != home {
			t.Fatalf("in %s, home %s: %v", inside, home, err)
		}
	}
	if err := l.Client.Do(func() error { runtime.Goexit(); return nil }); err != errGoexit {
		t.Errorf("after Goexit: %v", err)
	}
	defer func() {
		if r := recover(); r == nil || !strings.HasPrefix(fmt.Sprint(r), "boom") {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = l.Client.Do(func() error { panic("boom") })
}

func namespaceID(t *testing.T) string {
	t.Helper()
	id, err := os.Readlink(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestSysctl(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{NoTxChecksum: true})
	if err := l.Server.Sysctl("net.ipv4.tcp_syncookies", "2"); err != nil {
		t.Fatal(err)
	}
	out := must[[]byte](t, "sysctl")(l.Server.Command(ctx, "sysctl", "-n", "net.ipv4.tcp_syncookies").Output())
	if string(out) != "2\n" {
		t.Errorf("got %q", out)
	}
	if out, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_syncookies"); string(out) == "2\n" {
		t.Error("set in the host's namespace")
	}
	if err := l.Server.Sysctl("net.no_such", "1"); err == nil {
		t.Error("no error for an unknown parameter")
	}
}
