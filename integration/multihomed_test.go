package integration

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// anyInterfaceRule is webRule for clients of whatever interface.
const anyInterfaceRule = `
[[rule]]
name = "web"
port = [80]
state = %q
max_src_conn = %d
`

// secondGatewayAddr is the gateway's address on the second client network.
func secondGatewayAddr(f Family) netip.Addr { return secondNet.host(f, gatewayHost) }

// A server on the gateway has an address on each of two networks, and answers of
// each address go out by its own interface, as a rule of routing says, whichever
// the client came in by.
func TestServerOfTwoNetworks(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			l := newLab(t, Options{SecondClientNet: true})
			l.routeAnswers(t)
			fw := startFirewall(t, l, policyConfig(policy, anyInterfaceRule, 10))
			for _, f := range Families {
				g := &guarded{t: t, ctx: testContext(t), lab: l, fw: fw, at: places[1], family: f}
				for _, home := range []struct {
					addr             netip.Addr
					by, not          string // interfaces of the client
					crowd, neighbour int    // sources in IPv6 are prefixes
				}{{GatewayAddr(f), "eth0", "eth1", 0, 1}, {secondGatewayAddr(f), "eth1", "eth0", 2, 3}} {
					g.srv = must[*AcceptCounter](t, "listen")(l.Gateway.CountAccepts(netip.AddrPortFrom(home.addr, 80), AcceptOptions{Echo: true, CloseOnEOF: true}))
					for _, from := range []netip.Addr{ClientAddr(f, home.neighbour), SecondClientAddr(f, home.neighbour), g.source(home.crowd)} {
						g.expectAnswersBy(from, home.by, home.not)
					}
				}
				g.expectNoLosses()
			}
		})
	}
}

// routeAnswers gives the gateway a table of routes for each of its addresses.
func (l *Lab) routeAnswers(t *testing.T) {
	t.Helper()
	for i, home := range []struct {
		device string
		net    subnet
	}{{"eth0", clientNet}, {"eth2", secondNet}} {
		for _, f := range Families {
			table, from := strconv.Itoa(100+i), home.net.host(f, gatewayHost).String()
			via := home.net.host(f, firstClientHost).String()
			l.Gateway.ip(t, f, "route", "add", "default", "via", via, "dev", home.device, "table", table)
			l.Gateway.ip(t, f, "rule", "add", "from", from, "table", table)
		}
	}
}

// ip runs ip(8) in the namespace.
func (n *Namespace) ip(t *testing.T, f Family, args ...string) {
	t.Helper()
	family := map[Family]string{IPv4: "-4", IPv6: "-6"}[f]
	if out, err := n.Command(t.Context(), "ip", append([]string{family}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v %s", args, err, out)
	}
}

// expectAnswersBy makes a connection and looks by which interface of the client's
// what the server says comes in.
func (g *guarded) expectAnswersBy(from netip.Addr, by, not string) {
	g.t.Helper()
	right, wrong := captureOn(g.t, linkEnd{g.lab.Client, by}), captureOn(g.t, linkEnd{g.lab.Client, not})
	p := g.open(from)
	client := addrPortOf(p.client.LocalAddr())
	echo(g.t, p.client)
	closeSession(g.t, p.client)
	const least = 3 // the SYN+ACK, the echo and the FIN
	if n := right.count(g.srv.Addr(), client); n < least {
		g.t.Errorf("from %v to %v: %d answers by %s, want %d at least", from, g.srv.Addr(), n, by, least)
	}
	if n := wrong.count(g.srv.Addr(), client); n > 0 {
		g.t.Errorf("from %v to %v: %d answers by %s", from, g.srv.Addr(), n, not)
	}
}

// captureOn hears one interface only.
func captureOn(t *testing.T, e linkEnd) *capture {
	t.Helper()
	c := captureIn(t, e.ns)
	err := unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: e.attrs(t).Index})
	if err != nil {
		t.Fatalf("hear %s: %v", e.name, err)
	}
	return c
}

// Clients come in by one interface, and what goes to them leaves by another.
func TestAsymmetricRoutes(t *testing.T) {
	for _, policy := range policies {
		under(t, policy, places, Families, func(t *testing.T, policy string, at place, f Family) {
			l := newLab(t, Options{SecondClientNet: true})
			l.Gateway.ip(t, f, "route", "replace", benchNets[f.index()].String(), "via", SecondClientAddr(f, 0).String(), "dev", "eth2")
			g := &guarded{t: t, ctx: testContext(t), lab: l, at: at, family: f, fw: startFirewall(t, l, webConfig(policy, 3))}
			g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), AcceptOptions{Echo: true, CloseOnEOF: true}))
			g.expectAnswersBy(g.source(0), "eth1", "eth0")
			p := g.open(g.source(1))
			exchange(t, p.client, mebibyte)
			closeSession(t, p.client)
			g.waitSummary(g.source(1), "1 FIN_WAIT_2:FIN_WAIT_2")
			g.expectHeld(g.source(2), 3, "eth0")
			g.expectNoLosses()
		})
	}
}

// index is the family's place in lists of one thing for each.
func (f Family) index() int { return map[Family]int{IPv4: 0, IPv6: 1}[f] }

// vlanName is what interfaces of VLANs are called. Not every kernel can make a real
// one; to the firewall it is an interface with a dot in its name.
const vlanName = "eth0.10"

// A rule can name an interface whose name has a dot.
func TestVLANName(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		l := newLab(t, Options{})
		l.addVLAN(t)
		config := fmt.Sprintf(interfacesRule, strconv.Quote(vlanName), policy)
		g := &guarded{t: t, ctx: testContext(t), lab: l, at: at, family: f, fw: startFirewall(t, l, config)}
		g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), AcceptOptions{Echo: true}))
		g.expectHeld(SecondClientAddr(f, 0), 3, vlanName)
		g.expectHeld(ClientAddr(f, 0), 10, "")
	})
}

// addVLAN adds the second client network with an interface of that name.
func (l *Lab) addVLAN(t *testing.T) {
	t.Helper()
	k := link{net: secondNet, gatewayName: vlanName, peer: l.Client, peerName: "eth1"}
	for h := firstClientHost; h <= lastClientHost; h++ {
		k.peerHosts = append(k.peerHosts, h)
	}
	if err := l.connect(k); err != nil {
		t.Fatal(err)
	}
	for _, f := range Families {
		if err := l.Client.routeSecond(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{l.Gateway.waitCarrier(vlanName), l.Client.waitCarrier("eth1"), k.waitAddresses(l.Gateway)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What a machine says to itself is nobody's business, on its addresses of the
// loopback interface and on all others.
func TestLoopbackAlone(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			l := newLab(t, Options{})
			fw := startFirewall(t, l, policyConfig(policy, anyInterfaceRule, 1))
			ctx := testContext(t)
			for _, f := range Families {
				own := map[Family]netip.Addr{IPv4: netip.MustParseAddr("127.0.0.1"), IPv6: netip.IPv6Loopback()}[f]
				for _, a := range []netip.Addr{own, GatewayAddr(f)} {
					srv := must[*AcceptCounter](t, "listen")(l.Gateway.CountAccepts(netip.AddrPortFrom(a, 80), AcceptOptions{Echo: true}))
					h := l.Gateway.Hold(ctx, HoldOptions{To: srv.Addr(), N: 5})
					if h.Count(Held) != 5 {
						t.Errorf("to %v: %v", srv.Addr(), h)
					}
				}
			}
			waitStates(ctx, t, fw, map[string]int{})
			if n := must[uint64](t, "queued")(l.Gateway.Queued()); n > 0 {
				t.Errorf("%d packets came to user space", n)
			}
		})
	}
}
