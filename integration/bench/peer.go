package main

import (
	"context"
	"fmt"
	"net/netip"

	"nfqfw/integration"
	"nfqfw/internal/control"
)

// A peer is what can stand on the gateway before a server: the firewall under one of its
// policies, something else that does a part of its work, or nothing.
type peer struct {
	key  string // on the command line and in the raw numbers
	name string // in tables and charts
	kind kind

	// set puts it onto the gateway, where it allows a source limit connections, if it
	// can count.
	set func(ctx context.Context, st *stage, limit int) error
	// counts says that it refuses what is over the limit.
	counts bool
	// verify looks, while a client holds connections, that they are what the peer says.
	verify func(ctx context.Context, st *stage, held int) error
}

// kind is what colour a peer has in a chart.
type kind string

// The kinds of peers.
const (
	nothing kind = "base"
	other   kind = "other"
	ours    kind = "ours"
)

// web is where the server listens.
var web = netip.AddrPortFrom(integration.ServerAddr(integration.IPv4), 80)

// peers are all, in the order in which they are shown.
var peers = []peer{
	{key: "direct", name: "direct, no conntrack", kind: nothing, set: setNothing, verify: verifyDirect},
	{key: "conntrack", name: "conntrack only", kind: nothing, set: setConntrack, verify: verifyConntrack},
	{key: "synproxy-mss", name: "kernel SYNPROXY, MSS only", kind: other, set: setSYNPROXY("--mss 1460"), verify: verifySYNPROXY},
	{
		key: "synproxy-all", name: "kernel SYNPROXY, all options", kind: other,
		set: setSYNPROXY("--mss 1460 --sack-perm --wscale 7 --timestamp"), verify: verifySYNPROXY,
	},
	{key: "ctcount", name: "nft ct count", kind: other, set: setCtCount, counts: true, verify: verifyCtCount},
	{key: "haproxy", name: "HAProxy, TCP", kind: other, set: setHAProxy, counts: true, verify: verifyHAProxy},
	{key: "nfqfw-synproxy", name: "nfqfw synproxy", kind: ours, set: setFirewall("synproxy", "", ""), counts: true, verify: verifyFirewall(true)},
	{key: "nfqfw-cookies", name: "nfqfw synproxy, always cookies", kind: ours, set: setFirewall("synproxy", alwaysCookies, ""), counts: true, verify: verifyFirewall(true)},
	{key: "nfqfw-keep", name: "nfqfw keep", kind: ours, set: setFirewall("keep", "", ""), counts: true, verify: verifyFirewall(false)},
	{key: "nfqfw-adaptive", name: "nfqfw adaptive", kind: ours, set: setFirewall("adaptive", "", serverBacklog), counts: true, verify: verifyFirewall(false)},
}

// conntrackRules is what any gateway with a stateful rule does.
const conntrackRules = `*filter
-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
COMMIT
`

// synproxyRules are those of iptables-extensions(8) for SYNPROXY.
const synproxyRules = `*raw
-A PREROUTING -i eth0 -p tcp --dport 80 --syn -j CT --notrack
COMMIT
*filter
-A FORWARD -i eth0 -p tcp --dport 80 -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY %s
-A FORWARD -m conntrack --ctstate INVALID -j DROP
COMMIT
`

// ctCountRules are those of nft(8) for ct count, with an answer to who is refused.
const ctCountRules = `table ip bench {
	set sources {
		type ipv4_addr
		size 65535
		flags dynamic
	}
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname "eth0" tcp dport 80 ct state new add @sources { ip saddr ct count over %d } counter name "refused" reject with tcp reset
	}
	counter refused { }
}
`

// firewallRules is a whole configuration, up to what the policy needs.
const firewallRules = `%s
[[rule]]
name         = "web"
on           = ["eth0"]
to           = ["192.0.2.10"]
port         = [80]
state        = %q
max_src_conn = %d
%s`

const (
	alwaysCookies = "[syncookies]\nmode = \"always\"\n"
	// serverBacklog is what the README has an administrator say of a server elsewhere:
	// that of the lab's.
	serverBacklog = "backlog      = 4096\n"
)

func setNothing(context.Context, *stage, int) error { return nil }

func setConntrack(ctx context.Context, st *stage, _ int) error {
	return st.Gateway.Feed(ctx, conntrackRules, "iptables-restore")
}

// setSYNPROXY is as in the manual, by which conntrack takes up no connection in its
// middle.
func setSYNPROXY(options string) func(context.Context, *stage, int) error {
	return func(ctx context.Context, st *stage, _ int) error {
		if err := st.Gateway.Sysctl("net.netfilter.nf_conntrack_tcp_loose", "0"); err != nil {
			return err
		}
		return st.Gateway.Feed(ctx, fmt.Sprintf(synproxyRules, options), "iptables-restore")
	}
}

func setCtCount(ctx context.Context, st *stage, limit int) error {
	return st.Gateway.Feed(ctx, fmt.Sprintf(ctCountRules, limit), "nft", "-f", "-")
}

// setHAProxy has clients connect to the gateway.
func setHAProxy(ctx context.Context, st *stage, limit int) error {
	// Each connection needs a port of the gateway, and none for a minute again.
	if err := st.Gateway.Sysctl("net.ipv4.ip_local_port_range", "1024 65535"); err != nil {
		return err
	}
	st.to = netip.AddrPortFrom(integration.GatewayAddr(integration.IPv4), web.Port())
	h, err := st.Gateway.StartHAProxy(ctx, st.to, web, limit)
	if err != nil {
		return err
	}
	st.haproxy, st.daemon = h, h.Pid()
	return nil
}

func setFirewall(policy, cookies, more string) func(context.Context, *stage, int) error {
	return func(ctx context.Context, st *stage, limit int) error {
		f, err := st.Gateway.StartFirewall(ctx, st.binary, fmt.Sprintf(firewallRules, cookies, policy, limit, more))
		if err != nil {
			return err
		}
		st.firewall, st.daemon = f, f.Pid()
		return nil
	}
}

// cookies asks the firewall for its SYN cookies.
func (st *stage) cookies(ctx context.Context) (control.Syncookies, error) {
	i, err := st.firewall.Info(ctx)
	return i.Syncookies, err
}
