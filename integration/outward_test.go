package integration

import (
	"net/netip"
	"testing"
)

// outwardRules are about all that comes in by the clients' interface, or by any.
var outwardRules = map[string]string{
	"block on": `
[[rule]]
action = "block"
on = ["eth0"]
`,
	"pass on": `
[[rule]]
on = ["eth0"]
max_src_conn = 1
`,
	"block not on": `
[[rule]]
action = "block"
on = ["!lo"]
[[rule]]
on = ["eth1"]
`,
}

// A rule without ports is about what comes in by an interface, and leaves alone the
// answers to connections that go out by it: those of the machine itself, and those
// that come in where no such rule is.
func TestOutwardConnections(t *testing.T) {
	for name, rules := range outwardRules {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, Options{})
			startFirewall(t, l, rules)
			for _, f := range Families {
				addr := netip.AddrPortFrom(ClientAddr(f, 0), 7)
				must[*AcceptCounter](t, "listen")(l.Client.CountAccepts(addr, AcceptOptions{Echo: true, CloseOnEOF: true}))
				for _, from := range []*Namespace{l.Gateway, l.Server} {
					conn, err := from.Dial(testContext(t), netip.AddrPort{}, addr)
					if err != nil {
						t.Errorf("from %s to %v: %v", from.Name, addr, err)
						continue
					}
					echo(t, conn)
					closeSession(t, conn)
				}
			}
		})
	}
}

// Such a rule still is about connections from where it says.
func TestInwardConnections(t *testing.T) {
	l := newLab(t, Options{})
	startFirewall(t, l, outwardRules["block not on"])
	for _, f := range Families {
		addr := netip.AddrPortFrom(ServerAddr(f), 7)
		must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(addr, AcceptOptions{}))
		if conn, err := l.Client.Dial(testContext(t), netip.AddrPort{}, addr); err == nil {
			conn.Close()
			t.Errorf("%v was reached through a rule that blocks", addr)
		}
	}
}
