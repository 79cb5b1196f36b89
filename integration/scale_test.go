package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What ends can scale their windows by: a client's every kind against a server's.
var (
	serverScales = []uint8{0, 2, 7, 10, 14}
	clientScales = []uint8{0, 7, 14}
)

// scaledPort is that of a server with a shift.
func scaledPort(shift uint8) uint16 { return 8000 + uint16(shift) }

const (
	unscaledPort = 8050 // of a server that does not scale
	scaledData   = 2 * mebibyte
)

// A scaling test's policy, and whether its clients have timestamps: a cookie brings
// the exact shift back in them, and otherwise one that is rounded down.
type scalingCase struct {
	policy string
	stamps bool
}

// Both ends read each other's windows right, whatever they scale them by, the
// first client of a server included; and what they send arrives.
func TestWindowScales(t *testing.T) {
	for _, c := range []scalingCase{{"synproxy", true}, {"cookies", true}, {"cookies", false}, {"keep", true}} {
		for i, f := range Families {
			at := places[i] // both, in both families between them
			t.Run(fmt.Sprintf("%s/%s/%v/timestamps %v", c.policy, at.name, f, c.stamps), func(t *testing.T) {
				t.Parallel()
				c.run(newScaled(t, c, at, f))
			})
		}
	}
}

// newScaled is a lab in which a socket chooses its shift by its window clamp.
func newScaled(t *testing.T, c scalingCase, at place, f Family) *guarded {
	t.Helper()
	g := guardWith(t, portsConfig(c.policy), at, f, AcceptOptions{})
	for _, n := range []*Namespace{g.lab.Client, g.server()} {
		if err := n.Sysctl("net.ipv4.tcp_rmem", fmt.Sprintf("4096 131072 %d", scaleClamp(14))); err != nil {
			t.Fatal(err)
		}
	}
	if !c.stamps {
		if err := g.lab.Client.Sysctl("net.ipv4.tcp_timestamps", "0"); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func (c scalingCase) run(g *guarded) {
	var servers []*AcceptCounter
	for _, server := range serverScales {
		srv := g.listenScaled(server)
		servers = append(servers, srv)
		for _, client := range clientScales {
			p := g.openScaled(srv, client)
			c.judge(g.t, p, scaling{true, client, server})
			p.transfer(g.t, scaledData)
		}
	}
	g.withoutScaling(g.lab.Client, func() {
		for _, srv := range servers {
			p := g.openScaled(srv, 7)
			c.judge(g.t, p, scaling{})
			p.transfer(g.t, scaledData)
		}
	})
	g.withoutScaling(g.server(), func() {
		srv := must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(unscaledPort), AcceptOptions{}))
		for range 2 {
			p := g.openScaled(srv, 7)
			c.judge(g.t, p, scaling{})
			p.transfer(g.t, scaledData)
		}
	})
	g.expectNoLosses()
}

// judge compares what the ends know with what they chose. A cookie without
// timestamps rounds the client's shift down: its windows are read smaller than they
// are.
func (c scalingCase) judge(t *testing.T, p pair, want scaling) {
	t.Helper()
	client, server := scalingOf(t, p.client), scalingOf(t, p.server)
	if !client.on {
		client.send, client.receive = 0, 0
	}
	rounded := client
	if c.policy == "cookies" && !c.stamps {
		rounded.receive = cookieShift(client.receive)
	}
	if client.on != want.on || client.on && (client.receive != want.send || client.send != want.receive) {
		t.Errorf("the client has %+v, want %+v", client, scaling{want.on, want.receive, want.send})
	}
	if server.on != want.on || server.on && (server.send != rounded.receive || server.receive != rounded.send) {
		t.Errorf("the server has %+v, and the client %+v", server, client)
	}
}

// cookieShift is what is left of a shift in a cookie.
func cookieShift(shift uint8) uint8 {
	kept := []uint8{0, 2, 4, 6, 7, 8, 10}
	i, exact := slices.BinarySearch(kept, shift)
	if exact {
		return shift
	}
	return kept[i-1]
}

// scaleClamp is the largest window, for which the kernel chooses a shift
// (tcp_select_initial_window).
func scaleClamp(shift uint8) int {
	if shift == 0 {
		return 1<<16 - 1
	}
	return 1 << (15 + shift)
}

// clampWindow has a socket scale by a shift.
func clampWindow(c syscall.RawConn, shift uint8) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, scaleClamp(shift))
	})
	return errors.Join(ctl, err)
}

// listenScaled starts a server that scales by a shift.
func (g *guarded) listenScaled(shift uint8) *AcceptCounter {
	g.t.Helper()
	srv := must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(scaledPort(shift)), AcceptOptions{}))
	raw := must[syscall.RawConn](g.t, "raw")(srv.listener.SyscallConn())
	if err := clampWindow(raw, shift); err != nil {
		g.t.Fatalf("listen with shift %d: %v", shift, err)
	}
	return srv
}

// openScaled opens a connection whose client scales by a shift.
func (g *guarded) openScaled(srv *AcceptCounter, shift uint8) pair {
	g.t.Helper()
	d := net.Dialer{KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.source(0), 0))}
	d.Control = func(_, _ string, c syscall.RawConn) error { return clampWindow(c, shift) }
	n := srv.Count()
	var c net.Conn
	err := g.lab.Client.Do(func() (err error) {
		c, err = d.DialContext(g.ctx, "tcp", srv.Addr().String())
		return err
	})
	client := must[net.Conn](g.t, "dial")(c, err).(*net.TCPConn)
	g.t.Cleanup(func() { _ = client.Close() })
	return pair{client, must[*net.TCPConn](g.t, "accept")(srv.Conn(g.ctx, n))}
}

// withoutScaling runs f while a namespace does not scale windows.
func (g *guarded) withoutScaling(n *Namespace, f func()) {
	g.t.Helper()
	for _, value := range []string{"0", "1"} {
		if err := n.Sysctl("net.ipv4.tcp_window_scaling", value); err != nil {
			g.t.Fatal(err)
		}
		if value == "0" {
			f()
		}
	}
}
