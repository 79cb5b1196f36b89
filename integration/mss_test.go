package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// links' MTUs, of the client's and of the server's.
type mtus struct{ client, server int }

var unequalLinks = []mtus{{1500, 1400}, {1400, 1500}, {9000, 1500}, {1500, 9000}, {1500, 1280}, {1280, 1500}}

// Whatever the links to client and server can carry, each side hears the other's
// MSS, the first connection included, so that nothing is cut into fragments and
// nothing waits for an ICMP message, which nobody gets here.
func TestUnequalLinks(t *testing.T) {
	for _, m := range unequalLinks {
		for _, policy := range []string{"synproxy", "cookies"} {
			t.Run(fmt.Sprintf("%s/%d-%d", policy, m.client, m.server), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, Options{})
				m.set(t, l)
				l.dropICMP(t)
				fw := startFirewall(t, l, unequalConfig(policy))
				for _, f := range Families {
					g := &guarded{t: t, ctx: testContext(t), lab: l, fw: fw, at: places[0], family: f}
					m.expectTold(g, 80, policy)
					m.expectTold(g, 81, "keep")
				}
				for _, n := range l.namespaces() {
					n.expectWhole(t)
				}
			})
		}
	}
}

// Where only the gateway knows that a link is narrow, what leaves by it fits: with
// nobody's complaint heard, without the SYN proxy it would get nowhere.
func TestNarrowGateway(t *testing.T) {
	for _, policy := range []string{"synproxy", "cookies"} {
		for _, way := range []struct {
			name, device string
			up           bool
		}{{"up", "eth1", true}, {"down", "eth0", false}} {
			t.Run(policy+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, Options{})
				linkEnd{l.Gateway, way.device}.setMTU(t, 1400)
				l.dropICMP(t)
				g := &guarded{t: t, ctx: testContext(t), lab: l, at: places[0], family: IPv4}
				g.fw = startFirewall(t, l, webConfig(policy, 100))
				g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), AcceptOptions{}))
				for i := range 2 {
					p := g.open(g.source(i))
					from, to := p.server, p.client
					if way.up {
						from, to = to, from
					}
					if err := transfer(from, to, mebibyte); err != nil {
						t.Errorf("connection %d: %v", i, err)
					}
				}
			})
		}
	}
}

// A client that is answered before its server has said anything sends no more at a
// time than a link behind the gateway may carry.
func TestSilentServerMSS(t *testing.T) {
	for _, policy := range []string{"synproxy", "cookies"} {
		for _, f := range Families {
			t.Run(fmt.Sprintf("%s/%v", policy, f), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, Options{})
				mtus{1500, 1300}.set(t, l)
				l.dropICMP(t)
				g := &guarded{t: t, ctx: testContext(t), lab: l, at: places[0], family: f}
				g.fw = startFirewall(t, l, webConfig(policy, 100))
				g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), AcceptOptions{}))
				l.Server.lose(t, drop{f, "OUTPUT", "--sport 80 --tcp-flags SYN SYN", true})
				from := netip.AddrPortFrom(g.source(0), 0)
				client := must[*net.TCPConn](t, "dial")(l.Client.Dial(g.ctx, from, g.srv.Addr()))
				l.Server.lossless(t, f)
				p := pair{client, must[*net.TCPConn](t, "accept")(g.srv.Conn(g.ctx, 0))}
				if n := segmentSize(t, p.client); n > 1300-headersOf(f) {
					t.Errorf("the client sends segments of %d octets to a link of 1300", n)
				}
			})
		}
	}
}

// unequalConfig has a proxied server on port 80 and a kept one on 81.
func unequalConfig(policy string) string {
	second := strings.NewReplacer("80", "81", `"web"`, `"kept"`).Replace(fmt.Sprintf(webRule, "keep", 100))
	return webConfig(policy, 100) + second
}

// set gives both ends of each link its MTU.
func (m mtus) set(t *testing.T, l *Lab) {
	t.Helper()
	linkEnd{l.Client, "eth0"}.setMTU(t, m.client)
	linkEnd{l.Gateway, "eth0"}.setMTU(t, m.client)
	linkEnd{l.Gateway, "eth1"}.setMTU(t, m.server)
	linkEnd{l.Server, "eth0"}.setMTU(t, m.server)
}

func (e linkEnd) setMTU(t *testing.T, mtu int) {
	t.Helper()
	k, err := e.ns.nl.LinkByName(e.name)
	if err == nil {
		err = e.ns.nl.LinkSetMTU(k, mtu)
	}
	if err != nil {
		t.Fatalf("set MTU %d of %s in %s: %v", mtu, e.name, e.ns.Name, err)
	}
}

// dropICMP has no ICMP message go anywhere. Neighbours are permanent in a lab.
func (l *Lab) dropICMP(t *testing.T) {
	t.Helper()
	for _, n := range l.namespaces() {
		for _, f := range Families {
			protocol := map[Family]string{IPv4: "icmp", IPv6: "ipv6-icmp"}[f]
			rules := "*filter\n"
			for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
				rules += fmt.Sprintf("-A %s -p %s -j DROP\n", chain, protocol)
			}
			if err := n.Feed(t.Context(), rules+"COMMIT\n", f.iptables("-restore")); err != nil {
				t.Fatalf("drop ICMP: %v", err)
			}
		}
	}
}

// expectTold opens connections to a new server, looks what both sides hear and
// know, and transfers data.
func (m mtus) expectTold(g *guarded, port uint16, policy string) {
	g.t.Helper()
	srv := must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(port), AcceptOptions{}))
	g.srv = srv
	toServer, toClient := m.client-headersOf(g.family), m.server-headersOf(g.family)
	kept := toServer // after the handshake
	if policy == "cookies" {
		kept = cookieMSS(toServer)
	}
	for i := range 2 {
		atClient, atServer := captureIn(g.t, g.lab.Client), captureIn(g.t, g.server())
		p := g.open(g.source(i))
		client := addrPortOf(p.client.LocalAddr())
		what := fmt.Sprintf("%s/%v, connection %d", policy, g.family, i)
		want := kept
		if i == 0 {
			want = toServer // a new server is asked in the client's own words
		}
		if got := mssOf(atServer.next(g.t, client, srv.Addr())); got != want {
			g.t.Errorf("%s: the server hears of an MSS of %d, want %d", what, got, want)
		}
		if got := mssOf(atClient.next(g.t, srv.Addr(), client)); got != toClient {
			g.t.Errorf("%s: the client hears of an MSS of %d, want %d", what, got, toClient)
		}
		p.transfer(g.t, mebibyte)
		expectSizes(g.t, what+": client", p.client, m.client, toClient)
		expectSizes(g.t, what+": server", p.server, m.server, kept)
	}
}

// headersOf is how long the headers of IP and TCP are without options.
func headersOf(f Family) int { return map[Family]int{IPv4: 40, IPv6: 60}[f] }

// cookieMSS is what is left of an MSS in a cookie.
func cookieMSS(mss int) int {
	kept := []int{216, 536, 1200, 1360, 1400, 1440, 1452, 1460}
	i, exact := slices.BinarySearch(kept, mss)
	if exact {
		return mss
	}
	return kept[i-1]
}

// mssOf is the MSS that a segment tells; 0 if none.
func mssOf(s *layers.TCP) int {
	for _, o := range s.Options {
		if o.OptionType == layers.TCPOptionKindMSS && len(o.OptionData) == 2 {
			return int(binary.BigEndian.Uint16(o.OptionData))
		}
	}
	return 0
}

// expectSizes looks at what ss calls pmtu, advmss and mss: a socket knows its own
// link, has learned no other, and sends no more than it was told.
func expectSizes(t *testing.T, what string, c *net.TCPConn, mtu, told int) {
	t.Helper()
	raw := must[syscall.RawConn](t, "raw")(c.SyscallConn())
	var info *unix.TCPInfo
	var err error
	ctl := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(ctl, err); err != nil {
		t.Fatalf("TCP_INFO: %v", err)
	}
	const stamps = 12 // octets of each segment for timestamps, which both numbers leave out
	own := mtu - headersOf(familyOf(addrPortOf(c.LocalAddr()).Addr()))
	if int(info.Pmtu) != mtu || int(info.Advmss) != own-stamps || int(info.Snd_mss) != min(told, own)-stamps {
		t.Errorf("%s: pmtu %d, advmss %d, mss %d; its link has %d, and it was told %d", what, info.Pmtu, info.Advmss, info.Snd_mss, mtu, told)
	}
}

// expectWhole looks that no packet was cut, put together again, or too large.
func (n *Namespace) expectWhole(t *testing.T) {
	t.Helper()
	for _, file := range []string{"snmp", "snmp6"} {
		for name, value := range n.counters(t, file) {
			fragments := strings.Contains(name, "Frag") || strings.Contains(name, "Reasm")
			if (fragments || strings.Contains(name, "TooBig")) && value != 0 {
				t.Errorf("%s: %s is %d", n.Name, name, value)
			}
		}
	}
}

// counters are the numbers of a file of /proc/net, by name.
func (n *Namespace) counters(t *testing.T, file string) map[string]int {
	t.Helper()
	var text []byte
	err := n.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/" + file)
		return err
	})
	all := make(map[string]int)
	var names []string
	for line := range strings.Lines(string(must[[]byte](t, "counters")(text, err))) {
		words := strings.Fields(line)
		var value int
		switch {
		case file == "snmp6":
			_, _ = fmt.Sscan(words[1], &value) // the kernel writes numbers
			all[words[0]] = value
		case names == nil:
			names = words
		default:
			for i := 1; i < len(words); i++ {
				_, _ = fmt.Sscan(words[i], &value)
				all[strings.TrimSuffix(names[0], ":")+names[i]] = value
			}
			names = nil
		}
	}
	return all
}
