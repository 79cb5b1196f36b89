package integration

import (
	"fmt"
	"net/netip"
	"testing"
)

const interfacesRule = `
[[rule]]
name = "web"
on = [%s]
port = [80]
state = %q
max_src_conn = 3
`

// A rule is for the interfaces it names: a client that comes in by another one
// is not limited.
func TestInterfaces(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		t.Run("one", func(t *testing.T) {
			g := guardWith(t, fmt.Sprintf(interfacesRule, `"eth0"`, policy), at, f, AcceptOptions{Echo: true})
			g.expectHeld(ClientAddr(f, 0), 3, "eth0")
			g.expectHeld(SecondClientAddr(f, 0), 10, "")
		})
		t.Run("both", func(t *testing.T) {
			g := guardWith(t, fmt.Sprintf(interfacesRule, `"eth0", "eth2"`, policy), at, f, AcceptOptions{Echo: true})
			g.expectHeld(ClientAddr(f, 0), 3, "eth0")
			g.expectHeld(SecondClientAddr(f, 0), 3, "eth2")
		})
	})
}

// expectHeld opens ten connections, of which so many hold, each with a state of
// that interface; "" is no state.
func (g *guarded) expectHeld(from netip.Addr, want int, iface string) {
	g.t.Helper()
	h := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: 10})
	if h.Count(Held) != want || h.Count(Refused)+h.Count(Reset) != 10-want {
		g.t.Errorf("from %v: %v, want %d held", from, h, want)
	}
	for _, s := range g.statesOf(from) {
		if s.Interface != iface {
			g.t.Errorf("from %v: a state of interface %q, want %q", from, s.Interface, iface)
		}
	}
}
