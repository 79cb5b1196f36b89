package integration

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// A drop is the loss of packets on the wire of the client or of the server,
// that is, in their namespaces and not by the gateway's rules. The first of
// those that match are lost, as often as there are rules for them.
//
// A queue that nobody reads loses a packet as a wire does: its sender believes
// it sent, while from DROP in OUTPUT a socket learns of it (EPERM), and a server
// gives up a handshake whose SYN+ACK it could not send again.
type drop struct {
	family Family
	chain  string // of the table raw: PREROUTING for what comes in, OUTPUT for what goes out
	match  string // in the words of iptables(8)
	all    bool   // and not only the first
}

func (d drop) rule() string {
	first := ""
	if !d.all {
		first = "-m statistic --mode nth --every 1000000 --packet 0"
	}
	return fmt.Sprintf("-A %s -p tcp %s %s -j NFQUEUE --queue-num 65535\n", d.chain, d.match, first)
}

// iptables is the name of a family's tool, or of one of its relatives.
func (f Family) iptables(relative string) string {
	if f == IPv6 {
		return "ip6tables" + relative
	}
	return "iptables" + relative
}

// lose puts the drops in, behind those that are there.
func (n *Namespace) lose(t *testing.T, drops ...drop) {
	t.Helper()
	for _, f := range Families {
		var rules strings.Builder
		for _, d := range drops {
			if d.family == f {
				rules.WriteString(d.rule())
			}
		}
		if rules.Len() == 0 {
			continue
		}
		if err := n.Feed(t.Context(), "*raw\n"+rules.String()+"COMMIT\n", f.iptables("-restore"), "--noflush"); err != nil {
			t.Fatalf("lose packets: %v", err)
		}
	}
}

// lossless takes all drops out.
func (n *Namespace) lossless(t *testing.T, f Family) {
	t.Helper()
	if out, err := n.Command(t.Context(), f.iptables(""), "-t", "raw", "-F").CombinedOutput(); err != nil {
		t.Fatalf("flush in %s: %v %s", n.Name, err, out)
	}
}

// savedRule is a line of iptables-save -c: how many packets matched, and what.
var savedRule = regexp.MustCompile(`(?m)^\[(\d+):\d+\] -A (.*)$`)

// unused lists the drops that have not had their packet.
func (n *Namespace) unused(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, f := range Families {
		out := must[[]byte](t, "save")(n.Command(t.Context(), f.iptables("-save"), "-c", "-t", "raw").Output())
		for _, m := range savedRule.FindAllStringSubmatch(string(out), -1) {
			if m[1] == "0" {
				list = append(list, m[2])
			}
		}
	}
	return list
}

// entries lists the kernel's conntrack entries in the gateway of connections
// that some ports of clients opened, or of all.
func (g *guarded) entries(ports ...uint16) (list []*netlink.ConntrackFlow) {
	g.t.Helper()
	family := netlink.InetFamily(netlink.FAMILY_V4)
	if g.family == IPv6 {
		family = netlink.FAMILY_V6
	}
	err := g.lab.Gateway.Do(func() (err error) {
		list, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		return err
	})
	if err != nil {
		g.t.Fatalf("list conntrack: %v", err)
	}
	return slices.DeleteFunc(list, func(c *netlink.ConntrackFlow) bool {
		return len(ports) > 0 && !slices.Contains(ports, c.Forward.SrcPort)
	})
}
