package backlog

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
)

// listen opens a listening socket with a backlog, and gives the port it got.
func listen(t *testing.T, address string, v6only bool, backlog int) netip.AddrPort {
	t.Helper()
	a := netip.MustParseAddr(address)
	family, bind := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, bind = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if family == unix.AF_INET6 {
		only := map[bool]int{true: 1}[v6only]
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Bind(fd, bind); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	var port int
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port = name.Port
	case *unix.SockaddrInet6:
		port = name.Port
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(port))
}

// connect makes connections that nobody accepts.
func connect(t *testing.T, to netip.AddrPort, n int) {
	t.Helper()
	for range n {
		c, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
}

func mustListeners(t *testing.T) map[netip.AddrPort]Listener {
	t.Helper()
	list, err := Listeners()
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[netip.AddrPort]Listener)
	for _, l := range list {
		m[l.Addr] = l
	}
	if len(m) != len(list) {
		t.Errorf("an address twice: %+v", list)
	}
	return m
}

func TestListeners(t *testing.T) {
	netnstest.New(t)
	if got := mustListeners(t); len(got) != 0 {
		t.Errorf("a new namespace has %v", got)
	}
	want := make(map[netip.AddrPort]Listener)
	for _, tt := range []struct {
		address string
		v6only  bool
		backlog int
		waiting int
		dial    string
	}{
		{"127.0.0.1", false, 7, 3, "127.0.0.1"},
		{"0.0.0.0", false, 8, 0, ""},
		{"::1", true, 300, 5, "::1"},
		{"::", false, 9, 2, "127.0.0.1"},
		{"::", true, 10, 11, "::1"}, // one more than the backlog, as Linux has it
		{"::ffff:127.0.0.1", false, 11, 1, "127.0.0.1"},
	} {
		addr := listen(t, tt.address, tt.v6only, tt.backlog)
		want[addr] = Listener{Addr: addr, V6Only: tt.v6only, Backlog: tt.backlog, Waiting: tt.waiting}
		if tt.waiting > 0 {
			connect(t, netip.AddrPortFrom(netip.MustParseAddr(tt.dial), addr.Port()), tt.waiting)
		}
	}
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	var diff string
	for range 300 { // the last ACK may still be on its way
		if diff = cmp.Diff(want, mustListeners(t), compare); diff == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("-want +got:\n%s", diff)
}

// A dump of more sockets than fit one message has an end, too.
func TestManyListeners(t *testing.T) {
	netnstest.New(t)
	const n = 500
	for range n {
		listen(t, "127.0.0.1", false, 1)
	}
	if got := mustListeners(t); len(got) != n {
		t.Errorf("%d listeners, want %d", len(got), n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, answerLen))
	f.Add(append(make([]byte, answerLen), 5, 0, skv6only, 0, 1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, ok := parse(b); ok != (len(b) >= answerLen) || ok && !l.Addr.IsValid() {
			t.Errorf("%+v, %v", l, ok)
		}
	})
}
