package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// secondTable is the routing table for what leaves the client's eth1.
const secondTable = 2

// linkStart is how long a link may take until it carries packets.
const linkStart = 5 * time.Second

// link is a veth pair between the gateway and a neighbour of it.
type link struct {
	net         subnet
	gatewayName string
	peer        *Namespace
	peerName    string
	peerHosts   []int
}

// wire connects the namespaces and configures addresses, routes and
// forwarding. Settings come before links, because a link copies them.
func (l *Lab) wire(opts Options) error {
	for _, n := range l.namespaces() {
		if err := quiet(n); err != nil {
			return err
		}
	}
	if err := forward(l.Gateway); err != nil {
		return err
	}
	for _, k := range l.links(opts) {
		if err := l.connect(k); err != nil {
			return err
		}
	}
	if err := l.route(opts); err != nil {
		return err
	}
	for _, k := range l.links(opts) {
		if err := errors.Join(l.Gateway.waitCarrier(k.gatewayName), k.peer.waitCarrier(k.peerName)); err != nil {
			return err
		}
		if err := k.waitAddresses(l.Gateway); err != nil {
			return err
		}
	}
	if opts.NoTxChecksum {
		return l.disableTxChecksum(opts)
	}
	return nil
}

// links lists the veth pairs of the picture in lab.go.
func (l *Lab) links(opts Options) []link {
	var clients []int
	for h := firstClientHost; h <= lastClientHost; h++ {
		clients = append(clients, h)
	}
	all := []link{
		{clientNet, "eth0", l.Client, "eth0", clients},
		{serverNet, "eth1", l.Server, "eth0", []int{serverHost}},
	}
	if opts.SecondClientNet {
		all = append(all, link{secondNet, "eth2", l.Client, "eth1", clients})
	}
	return all
}

// quiet makes addresses usable at once and keeps the kernel from talking
// without being asked.
func quiet(n *Namespace) error {
	settings := [][2]string{}
	for _, scope := range []string{"all", "default"} {
		settings = append(settings, [][2]string{
			{"net.ipv4.conf." + scope + ".rp_filter", "0"},
			{"net.ipv6.conf." + scope + ".disable_ipv6", "0"},
			{"net.ipv6.conf." + scope + ".accept_dad", "0"},
			{"net.ipv6.conf." + scope + ".dad_transmits", "0"},
			{"net.ipv6.conf." + scope + ".accept_ra", "0"},
			{"net.ipv6.conf." + scope + ".router_solicitations", "0"},
		}...)
	}
	// The crowd's IPv6 addresses are a local route, which bind does not look at.
	settings = append(settings, [2]string{"net.ipv6.ip_nonlocal_bind", "1"})
	return setAll(n, settings)
}

// forward makes a router of n.
func forward(n *Namespace) error {
	return setAll(n, [][2]string{
		{"net.ipv4.ip_forward", "1"},
		{"net.ipv4.conf.all.send_redirects", "0"},
		{"net.ipv4.conf.default.send_redirects", "0"},
		{"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv6.conf.default.forwarding", "1"},
	})
}

func setAll(n *Namespace, settings [][2]string) error {
	for _, s := range settings {
		if err := n.Sysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	return nil
}

// connect makes one veth pair with its addresses and neighbours.
func (l *Lab) connect(k link) error {
	err := l.Gateway.nl.LinkAdd(&netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: k.gatewayName},
		PeerName:      k.peerName,
		PeerNamespace: netlink.NsFd(k.peer.handle),
	})
	if err != nil {
		return fmt.Errorf("add veth %s: %w", k.gatewayName, err)
	}
	gateway, err := l.Gateway.up(k.gatewayName)
	if err != nil {
		return err
	}
	peer, err := k.peer.up(k.peerName)
	if err != nil {
		return err
	}
	for _, f := range Families {
		if err := l.address(k, f, gateway, peer); err != nil {
			return err
		}
	}
	return nil
}

// address gives both ends of a pair their addresses of one family. The
// neighbours are permanent, so that no test waits for or races with their
// resolution.
func (l *Lab) address(k link, f Family, gateway, peer netlink.Link) error {
	if err := l.Gateway.addAddr(gateway, k.net.prefix(f, gatewayHost)); err != nil {
		return err
	}
	if err := k.peer.addNeighbour(peer, k.net.host(f, gatewayHost), gateway); err != nil {
		return err
	}
	for _, h := range k.peerHosts {
		if err := k.peer.addAddr(peer, k.net.prefix(f, h)); err != nil {
			return err
		}
		if err := l.Gateway.addNeighbour(gateway, k.net.host(f, h), peer); err != nil {
			return err
		}
	}
	return nil
}

// route adds the routes that do not follow from the addresses.
func (l *Lab) route(opts Options) error {
	for i, f := range Families {
		steps := []func() error{
			func() error { return l.Client.addDefault("eth0", clientNet, f, ClientAddr(f, 0), unix.RT_TABLE_MAIN) },
			func() error { return l.Server.addDefault("eth0", serverNet, f, ServerAddr(f), unix.RT_TABLE_MAIN) },
			func() error {
				return l.Gateway.addRoute("eth0", netlink.Route{Dst: ipNet(benchNets[i]), Gw: ClientAddr(f, 0).AsSlice()})
			},
			func() error { return l.Client.addLocal(crowdNets[i]) },
		}
		if opts.SecondClientNet {
			steps = append(steps, func() error { return l.Client.routeSecond(f) })
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// routeSecond sends what comes from the second client network out of eth1.
func (n *Namespace) routeSecond(f Family) error {
	err := n.addDefault("eth1", secondNet, f, SecondClientAddr(f, 0), secondTable)
	if err != nil {
		return err
	}
	rule := netlink.NewRule()
	rule.Src = ipNet(secondNet.prefix(f, gatewayHost).Masked())
	rule.Table = secondTable
	rule.Family = unix.AF_INET
	if f == IPv6 {
		rule.Family = unix.AF_INET6
	}
	if err := n.nl.RuleAdd(rule); err != nil {
		return fmt.Errorf("add rule from %v: %w", rule.Src, err)
	}
	return nil
}

// AddClient gives the client a further address on its first network.
func (l *Lab) AddClient(a netip.Addr) error {
	client, err := l.Client.up("eth0")
	if err != nil {
		return err
	}
	gateway, err := l.Gateway.up("eth0")
	if err != nil {
		return err
	}
	whole := clientNet.prefix(familyOf(a), gatewayHost)
	if !whole.Contains(a) {
		return fmt.Errorf("add client %v: not in %v", a, whole.Masked())
	}
	if err := l.Client.addAddr(client, netip.PrefixFrom(a, whole.Bits())); err != nil {
		return err
	}
	return l.Gateway.addNeighbour(gateway, a, client)
}

// disableTxChecksum turns the offload off at both ends of every link.
func (l *Lab) disableTxChecksum(opts Options) error {
	for _, k := range l.links(opts) {
		for _, end := range []struct {
			ns   *Namespace
			name string
		}{{l.Gateway, k.gatewayName}, {k.peer, k.peerName}} {
			out, err := end.ns.Command(context.Background(), "ethtool", "-K", end.name, "tx", "off").CombinedOutput()
			if err != nil {
				return fmt.Errorf("turn off checksum offload of %s: %w: %s", end.name, err, strings.TrimSpace(string(out)))
			}
		}
	}
	return nil
}

// up sets an interface up and returns it with its index and hardware address.
func (n *Namespace) up(name string) (netlink.Link, error) {
	k, err := n.nl.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", name, n.Name, err)
	}
	if err := n.nl.LinkSetUp(k); err != nil {
		return nil, fmt.Errorf("set %s up in %s: %w", name, n.Name, err)
	}
	return k, nil
}

// waitCarrier waits until an interface sends. The end of a pair that was set
// up first does so only when the kernel, some time later, has noticed that the
// other is up too; what it is given before, it drops.
func (n *Namespace) waitCarrier(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), linkStart)
	defer cancel()
	err := Poll(ctx, func() bool {
		k, err := n.nl.LinkByName(name)
		return err == nil && k.Attrs().OperState == netlink.OperUp
	})
	if err != nil {
		return fmt.Errorf("wait until %s in %s is up: %w", name, n.Name, err)
	}
	return nil
}

// waitAddresses waits until both ends take what is sent to their addresses. The
// kernel makes an IPv6 address its own some time after it was added, also without
// duplicate address detection (addrconf_dad_work).
func (k link) waitAddresses(gateway *Namespace) error {
	for _, f := range Families {
		if err := gateway.waitLocal(k.net.host(f, gatewayHost)); err != nil {
			return err
		}
		for _, h := range k.peerHosts {
			if err := k.peer.waitLocal(k.net.host(f, h)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Namespace) waitLocal(a netip.Addr) error {
	ctx, cancel := context.WithTimeout(context.Background(), linkStart)
	defer cancel()
	err := Poll(ctx, func() bool {
		list, err := n.nl.RouteGet(a.AsSlice())
		return err == nil && len(list) > 0 && list[0].Type == unix.RTN_LOCAL
	})
	if err != nil {
		return fmt.Errorf("wait for address %v in %s: %w", a, n.Name, err)
	}
	return nil
}

func (n *Namespace) addAddr(k netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := n.nl.AddrReplace(k, a); err != nil {
		return fmt.Errorf("add address %v in %s: %w", p, n.Name, err)
	}
	return nil
}

// addNeighbour says that a is at the other end of k.
func (n *Namespace) addNeighbour(k netlink.Link, a netip.Addr, at netlink.Link) error {
	err := n.nl.NeighSet(&netlink.Neigh{
		LinkIndex:    k.Attrs().Index,
		State:        netlink.NUD_PERMANENT,
		IP:           a.AsSlice(),
		HardwareAddr: at.Attrs().HardwareAddr,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %v in %s: %w", a, n.Name, err)
	}
	return nil
}

// addDefault routes everything to the gateway of s, from src unless a socket
// is bound.
func (n *Namespace) addDefault(dev string, s subnet, f Family, src netip.Addr, table int) error {
	all := netip.PrefixFrom(src, 0).Masked()
	return n.addRoute(dev, netlink.Route{
		Dst:   ipNet(all),
		Gw:    s.host(f, gatewayHost).AsSlice(),
		Src:   src.AsSlice(),
		Table: table,
	})
}

// addLocal makes every address of p the namespace's own.
func (n *Namespace) addLocal(p netip.Prefix) error {
	return n.addRoute("lo", netlink.Route{
		Dst:   ipNet(p),
		Type:  unix.RTN_LOCAL,
		Table: unix.RT_TABLE_LOCAL,
		Scope: netlink.SCOPE_HOST,
	})
}

func (n *Namespace) addRoute(dev string, r netlink.Route) error {
	k, err := n.nl.LinkByName(dev)
	if err != nil {
		return fmt.Errorf("find %s in %s: %w", dev, n.Name, err)
	}
	r.LinkIndex = k.Attrs().Index
	if err := n.nl.RouteReplace(&r); err != nil {
		return fmt.Errorf("add route to %v in %s: %w", r.Dst, n.Name, err)
	}
	return nil
}

// ipNet is p in the type that package netlink speaks.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
