package integration

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// seedRules is a ruleset as pf has it, for a server on the machine itself.
const seedRules = `
ext_if = "eth0"
set skip on lo0
block in on $ext_if
pass in on $ext_if proto tcp from any to ($ext_if) port = http flags S/SA \
  synproxy state (source-track rule, max-src-conn 10, if-bound)
pass out keep state
`

// A ruleset in pf's grammar does here what it says there: so many connections, and no
// more, and nothing else comes in.
func TestPFConf(t *testing.T) {
	Require(t, IPTables)
	l := newLab(t, Options{})
	f := must[*Firewall](t, "firewall")(l.Gateway.StartPF(t.Context(), must[string](t, "build")(program()), seedRules))
	stopAtEnd(t, f)
	for _, family := range Families {
		web := netip.AddrPortFrom(GatewayAddr(family), 80)
		server := must[*AcceptCounter](t, "listen")(l.Gateway.CountAccepts(web, AcceptOptions{Echo: true}))
		from := netip.AddrPortFrom(ClientAddr(family, 0), 0)
		for i := range 12 {
			conn, err := l.Client.Dial(testContext(t), from, web)
			switch {
			case err == nil:
				echo(t, keepOpen(t, conn))
				if i >= 10 {
					t.Errorf("%v: connection %d got in", family, i+1)
				}
			case i < 10 || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET):
				t.Errorf("%v: connection %d: %v", family, i+1, err)
			}
		}
		if n := server.Count(); n != 10 {
			t.Errorf("%v: the server accepted %d", family, n)
		}
		other := netip.AddrPortFrom(GatewayAddr(family), 81)
		must[*AcceptCounter](t, "listen")(l.Gateway.CountAccepts(other, AcceptOptions{}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second) // block is silent
		if conn, err := l.Client.Dial(ctx, from, other); err == nil {
			conn.Close()
			t.Errorf("%v was reached through a rule that blocks", other)
		}
		cancel()
	}
}

func keepOpen(t *testing.T, c *net.TCPConn) *net.TCPConn {
	t.Cleanup(func() { c.Close() })
	return c
}
