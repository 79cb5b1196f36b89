package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"nfqfw/internal/control"
)

// pressureConfig has its marks at 100 and 48 connections, and forgets half-open
// ones soon.
const pressureConfig = `
[limits]
states = 4000
[syncookies]
mode = "adaptive"
start = "2.5%%"
end = "1.2%%"
[timeouts]
"tcp.first" = "3s"
"tcp.opening" = "3s"
"tcp.closed" = "0.1s"
` + webRule

const pressureStart, pressureEnd = 100, 48

// Over the start mark a SYN leaves nothing behind; under the end mark it does
// again. Neither switch loses a connection, and both are told.
func TestCookiesAdaptive(t *testing.T) {
	for i, at := range places {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel() // it waits for states to expire
			f := Families[i]
			g := guardWith(t, fmt.Sprintf(pressureConfig, "synproxy", 100), at, f, AcceptOptions{Echo: true, CloseOnEOF: true})
			g.teach(80) // else the flood waits with the first client, and gets cookies
			end := traffic(g.ctx, t, g.lab, f, g.srv.Addr())
			// Cookies that do not come back are half-open until their key is gone: the
			// flood sends half as many as the end mark; a SYN sent again is one more.
			g.floodSYN(pressureStart + pressureEnd/2)
			g.waitSwitch("", true)
			if n := g.halfOpen(); n > pressureStart+1 {
				t.Errorf("%d states are half-open, with cookies from %d on", n, pressureStart)
			}
			g.waitSwitch("", false)
			end()
			g.expectLogged("syncookies active", "syncookies inactive")
			g.expectNoLosses()
		})
	}
}

// A rule with state = "adaptive" keeps state until the start mark is passed, and
// proxies until there is less than the end mark; what the marks are shares of is
// its backlog.
func TestAdaptive(t *testing.T) {
	for i, at := range places {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel() // it waits for states to expire
			f := Families[i]
			config := fmt.Sprintf(pressureConfig, "adaptive", 100) + "backlog = 2000\n"
			g := guardWith(t, config, at, f, AcceptOptions{Echo: true, CloseOnEOF: true})
			kept := g.open(ClientAddr(f, 0))
			if s := g.statesOf(ClientAddr(f, 0)); len(s) != 1 || s[0].Proxied {
				t.Fatalf("without pressure: %+v, want a kept one", s)
			}
			// An entry that outlived its state would keep the ACK of the tuple's next
			// connection from the SYN proxy.
			over := g.open(ClientAddr(f, 1))
			port := over.client.LocalAddr().(*net.TCPAddr).AddrPort().Port()
			_ = over.client.Close()
			if Poll(g.ctx, func() bool { return len(g.entries(port)) == 0 }) != nil {
				t.Errorf("the kernel's entry of a connection that is over is left")
			}
			end := traffic(g.ctx, t, g.lab, f, g.srv.Addr())
			g.floodSYN(pressureStart - 5)
			g.waitSwitch("web", true)
			proxied := g.open(ClientAddr(f, 1))
			if s := g.statesOf(ClientAddr(f, 1)); len(s) == 0 || !s[len(s)-1].Proxied {
				t.Errorf("under pressure: %+v, want a proxied one", s)
			}
			g.waitSwitch("web", false)
			end()
			echo(t, kept.client)
			echo(t, proxied.client)
			g.expectLogged("adaptive rule proxies", "adaptive rule keeps state")
			g.expectNoLosses()
		})
	}
}

// What an adaptive rule's marks are shares of is the backlog of a server on this
// machine; of one elsewhere it is limits.states.
func TestAdaptiveBacklog(t *testing.T) {
	for i, at := range places {
		f := Families[i]
		g := guardWith(t, fmt.Sprintf(pressureConfig, "adaptive", 100), at, f, AcceptOptions{})
		if err := g.srv.setBacklog(400); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"forwarded": pressureStart, "local": pressureStart / 10}[at.name]
		var got int
		err := Poll(g.ctx, func() bool {
			got = g.info().Adaptive[0].Start
			return got == want
		})
		if err != nil {
			t.Errorf("%s: start mark at %d, want %d", at.name, got, want)
		}
	}
}

// floodSYN sends SYNs from as many addresses that do not exist.
func (g *guarded) floodSYN(n int) {
	g.t.Helper()
	wire := openWire(g.t, g.lab, g.family)
	for i := range n {
		p := rawPacket{src: netip.AddrPortFrom(AbsentAddr(g.family, i), 1024), dst: g.srv.Addr(), flags: flagSYN}
		if err := wire.send(p.octets()); err != nil {
			g.t.Fatal(err)
		}
	}
}

// halfOpen is how many states are.
func (g *guarded) halfOpen() int {
	g.t.Helper()
	n := 0
	for _, s := range must[[]control.State](g.t, "states")(g.fw.States(g.ctx)) {
		if s.State == "PROXY:SRC" || strings.HasSuffix(s.State, "SYN_SENT") {
			n++
		}
	}
	return n
}

// waitSwitch waits until the switch of a rule, or that of the cookies, is on or off.
func (g *guarded) waitSwitch(rule string, on bool) {
	g.t.Helper()
	var last control.Pressure
	err := Poll(g.ctx, func() bool {
		i, err := g.fw.Info(g.ctx)
		if err != nil {
			return false
		}
		for _, p := range append(i.Adaptive, i.Syncookies.Pressure) {
			if p.Rule == rule {
				last = p
			}
		}
		return last.Rule == rule && last.On == on
	})
	if err != nil {
		g.t.Fatalf("the switch of %q is not %v: %+v, %v", rule, on, last, err)
	}
}

func (g *guarded) expectLogged(messages ...string) {
	g.t.Helper()
	for _, m := range messages {
		if !strings.Contains(g.fw.Log(), fmt.Sprintf("msg=%q", m)) {
			g.t.Errorf("the log does not say %q", m)
		}
	}
}
