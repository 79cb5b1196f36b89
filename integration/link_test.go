package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkChanges are what becomes of an interface of the gateway's under load.
var linkChanges = []struct {
	name string
	do   func(g *guarded, k link)
}{
	{"down and up", func(g *guarded, k link) {
		g.withLink(k, g.lab.Gateway.nl.LinkSetDown)
		time.Sleep(pause)
		g.withLink(k, g.lab.Gateway.nl.LinkSetUp)
		g.rewire(k)
	}},
	{"made anew", func(g *guarded, k link) {
		g.withLink(k, g.lab.Gateway.nl.LinkDel)
		time.Sleep(pause)
		if err := g.lab.connect(k); err != nil {
			g.t.Fatal(err)
		}
		g.rewire(k)
	}},
	{"renamed and renamed back", func(g *guarded, k link) {
		g.rename(k.gatewayName, "other0")
		time.Sleep(pause)
		g.rename("other0", k.gatewayName)
		g.rewire(k)
	}},
}

// Whatever becomes of an interface, of clients or of the server, the connections by it
// live on, and count as those of the interface with that name; the limit holds.
func TestLinkChanges(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		for _, change := range linkChanges {
			for i, side := range []string{"clients", "server"} {
				t.Run(fmt.Sprintf("%s/%s/%s", policy, change.name, side), func(t *testing.T) {
					all := guardAll(t, webConfig(policy, 10), AcceptOptions{Echo: true})
					b := keepBusy(t, all, 20)
					g := all[0]
					change.do(g, g.lab.links(Options{SecondClientNet: true})[i])
					for k, g := range all {
						g.waitInterface(k)
						h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 0), To: g.srv.Addr(), N: 2})
						if h.Count(Held) != 0 {
							t.Errorf("over the limit, %s, %v: %v", g.at.name, g.family, h)
						}
					}
					b.expectNoneLost(change.name)
				})
			}
		}
	}
}

// waitInterface waits until all states of the first busy source are of eth0.
func (g *guarded) waitInterface(k int) {
	g.t.Helper()
	names := make(map[string]int)
	ctx, cancel := context.WithTimeout(g.ctx, 5*time.Second)
	defer cancel()
	err := Poll(ctx, func() bool {
		clear(names)
		for _, s := range g.statesOf(g.busySource(k, 0)) {
			names[s.Interface]++
		}
		return names["eth0"] == busyPerSource && len(names) == 1
	})
	if err != nil {
		g.t.Errorf("%s, %v: states by interface %v, want 10 of eth0", g.at.name, g.family, names)
	}
}

func (g *guarded) withLink(k link, do func(netlink.Link) error) {
	g.t.Helper()
	l := must[netlink.Link](g.t, "find "+k.gatewayName)(g.lab.Gateway.nl.LinkByName(k.gatewayName))
	if err := do(l); err != nil {
		g.t.Fatal(err)
	}
}

func (g *guarded) rename(from, to string) {
	g.t.Helper()
	nl := g.lab.Gateway.nl
	l := must[netlink.Link](g.t, "find "+from)(nl.LinkByName(from))
	if err := errors.Join(nl.LinkSetDown(l), nl.LinkSetName(l, to), nl.LinkSetUp(l)); err != nil {
		g.t.Fatal(err)
	}
}

// rewire gives a link back what the kernel has taken from it.
func (g *guarded) rewire(k link) {
	g.t.Helper()
	gateway := must[netlink.Link](g.t, "up")(g.lab.Gateway.up(k.gatewayName))
	peer := must[netlink.Link](g.t, "up")(k.peer.up(k.peerName))
	err := errors.Join(g.lab.Gateway.waitCarrier(k.gatewayName), k.peer.waitCarrier(k.peerName))
	for _, f := range Families {
		err = errors.Join(err, g.lab.address(k, f, gateway, peer))
	}
	err = errors.Join(err, g.reroute(k), k.waitAddresses(g.lab.Gateway))
	if err != nil {
		g.t.Fatal(err)
	}
}

// reroute adds the routes by a link again, as Lab.route does.
func (g *guarded) reroute(k link) (err error) {
	for i, f := range Families {
		if k.peer == g.lab.Client {
			crowd := netlink.Route{Dst: ipNet(benchNets[i]), Gw: ClientAddr(f, 0).AsSlice()}
			err = errors.Join(err, g.lab.Client.addDefault("eth0", clientNet, f, ClientAddr(f, 0), unix.RT_TABLE_MAIN), g.lab.Gateway.addRoute("eth0", crowd))
		} else {
			err = errors.Join(err, g.lab.Server.addDefault("eth0", serverNet, f, ServerAddr(f), unix.RT_TABLE_MAIN))
		}
	}
	return err
}

// A rule follows the name of an interface at once: while another one has it, its
// clients are not limited, and when it has the name again they are.
func TestRuleFollowsName(t *testing.T) {
	g := guard(t, "keep", places[0], IPv4, 3, AcceptOptions{Echo: true})
	k := g.lab.links(Options{SecondClientNet: true})[0]
	other := k
	other.gatewayName = "other0"
	g.expectHeld(g.source(0), 3, "eth0")
	for i := range 10 {
		g.rename("eth0", "other0")
		g.rewireRenamed(other)
		g.expectHeld(g.source(2*i+1), 10, "")
		g.rename("other0", "eth0")
		g.rewire(k)
		g.expectHeld(g.source(2*i+2), 3, "eth0")
	}
}

// rewireRenamed is rewire for a link of clients that has another name.
func (g *guarded) rewireRenamed(k link) {
	g.t.Helper()
	gateway := must[netlink.Link](g.t, "up")(g.lab.Gateway.up(k.gatewayName))
	peer := must[netlink.Link](g.t, "up")(k.peer.up(k.peerName))
	crowd := netlink.Route{Dst: ipNet(benchNets[0]), Gw: ClientAddr(IPv4, 0).AsSlice()}
	err := errors.Join(g.lab.Gateway.waitCarrier(k.gatewayName), g.lab.address(k, IPv4, gateway, peer), g.lab.Gateway.addRoute(k.gatewayName, crowd))
	if err != nil {
		g.t.Fatal(err)
	}
}
