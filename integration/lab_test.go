package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestMain fails the run if a test leaves a namespace behind.
func TestMain(m *testing.M) {
	if unit := os.Getenv(sandboxed); unit != "" {
		fmt.Fprintln(os.Stderr, "sandbox:", runSandboxed(unit, os.Args[1:]))
		os.Exit(1)
	}
	code := m.Run()
	if buildDir != "" {
		os.RemoveAll(buildDir)
	}
	left, err := Leftovers()
	if err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind: %v %v\n", left, err)
		code = 1
	}
	os.Exit(code)
}

func newLab(t testing.TB, opts Options) *Lab {
	t.Helper()
	Require(t, Root, Namespaces)
	return New(t, opts)
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](t testing.TB, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func TestDialThroughGateway(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{SecondClientNet: true})
	extra := netip.MustParseAddr("198.51.100.99")
	if err := l.AddClient(extra); err != nil {
		t.Fatal(err)
	}
	for _, f := range Families {
		srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(f), 0), AcceptOptions{Echo: true}))
		sources := []netip.Addr{
			ClientAddr(f, 0), ClientAddr(f, ClientAddrs-1),
			SecondClientAddr(f, 0), SecondClientAddr(f, ClientAddrs-1),
			CrowdAddr(f, 0), CrowdAddr(f, 1234), CrowdAddr(f, benchRange-1),
		}
		if f == IPv4 {
			sources = append(sources, extra)
		}
		for i, from := range sources {
			t.Run(fmt.Sprint(from), func(t *testing.T) {
				c := must[*net.TCPConn](t, "dial")(l.Client.Dial(ctx, netip.AddrPortFrom(from, 0), srv.Addr()))
				defer c.Close()
				echo(t, c)
				s := must[*net.TCPConn](t, "accept")(srv.Conn(ctx, i))
				if got := s.RemoteAddr().(*net.TCPAddr).AddrPort(); got.Addr() != from || got.String() != c.LocalAddr().String() {
					t.Errorf("server sees %v, want %v", got, from)
				}
			})
		}
		if srv.Count() != len(sources) {
			t.Errorf("%d accepted, want %d", srv.Count(), len(sources))
		}
	}
}

func echo(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
		t.Fatalf("echo: %q %v", b, err)
	}
}

func TestUnboundSource(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	for _, f := range Families {
		srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(f), 80), AcceptOptions{Banner: []byte("hi")}))
		c := must[*net.TCPConn](t, "dial")(l.Client.Dial(ctx, netip.AddrPort{}, srv.Addr()))
		defer c.Close()
		if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); got != ClientAddr(f, 0) {
			t.Errorf("source %v, want %v", got, ClientAddr(f, 0))
		}
	}
}

func TestAbsentAddressesAreSilent(t *testing.T) {
	l := newLab(t, Options{})
	for _, f := range Families {
		h := l.Gateway.Hold(t.Context(), HoldOptions{To: netip.AddrPortFrom(AbsentAddr(f, 5), 80), N: 1, Timeout: 100 * time.Millisecond})
		if h.Count(TimedOut) != 1 {
			t.Errorf("%v: %v %v, want a timeout", f, h, h.Attempts[0].Err)
		}
	}
}

// TestTwoLabs proves that labs with the same addresses do not see each other.
func TestTwoLabs(t *testing.T) {
	ctx := testContext(t)
	one, other := newLab(t, Options{}), newLab(t, Options{})
	to := netip.AddrPortFrom(ServerAddr(IPv4), 80)
	srv := must[*AcceptCounter](t, "listen")(one.Server.CountAccepts(to, AcceptOptions{Echo: true}))
	if h := other.Client.Hold(ctx, HoldOptions{To: to, N: 1}); h.Count(Refused) != 1 {
		t.Errorf("in the other lab: %v, want refused", h)
	}
	if h := one.Client.Hold(ctx, HoldOptions{To: to, N: 1}); h.Count(Held) != 1 || srv.Count() != 1 {
		t.Errorf("in its own lab: %v, want held; %d accepted", h, srv.Count())
	}
}
