package inject

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/wire"
)

func open(t testing.TB, log *slog.Logger) *Sender {
	t.Helper()
	s, err := Open(packet.MarkOwn, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// capture is a packet socket that sees TCP on a device of the thread's namespace.
type capture struct {
	fd      int
	decoder *wire.Decoder
}

func newCapture(t testing.TB, device string) *capture {
	t.Helper()
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	index, err := net.InterfaceByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000}); err != nil {
		t.Fatal(err)
	}
	return &capture{fd: fd, decoder: wire.NewDecoder()}
}

// next is the next packet to port, with its checksum verified. A device that
// is handed a packet twice, as loopback is, shows the incoming one.
func (c *capture) next(t testing.TB, port uint16) packet.Packet {
	t.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatalf("no packet to port %d: %v", port, err)
		}
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		var p packet.Packet
		if c.decoder.Decode(b[:n], 0, &p) != packet.ReasonMatch || p.DstPort != port {
			continue
		}
		return p
	}
}

func listen(t testing.TB, address string) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func syn(src, dst string, port uint16) packet.Segment {
	s := packet.Segment{Seq: 0xfffffffe, Window: 64240, Flags: packet.SYN}
	s.Tuple = packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr(src), 51000), netip.AddrPortFrom(netip.MustParseAddr(dst), port))
	s.Options = packet.Options{MSS: 1460, SACKPermitted: true, HasWScale: true, WScale: 7}
	return s
}

// Each family has a client port of its own, to tell its packets from the other's retransmissions.
var families = []struct {
	name, client, server, bind string
	port                       uint16
}{
	{"IPv4", "198.51.100.7", "192.0.2.10", "192.0.2.10:0", 51004},
	{"IPv6", "2001:db8:1::7", "2001:db8::10", "[2001:db8::10]:0", 51006},
}

// TestLoopback: the SYN of a client far away comes over loopback to a listener
// on this machine, whose kernel answers towards the client: out of veth0, where
// veth1 hears it. Only what carries the mark gets as far as that.
func TestLoopback(t *testing.T) {
	netnstest.New(t)
	netnstest.Run(t, "ip addr add 192.0.2.10/32 dev lo", "ip -6 addr add 2001:db8::10/128 dev lo nodad",
		"ip link add veth0 type veth peer veth1", "ip link set veth0 up", "ip link set veth1 up",
		"ip route add default dev veth0", "ip -6 route add default dev veth0",
		"ip neigh add 198.51.100.7 lladdr 02:00:00:00:00:01 dev veth0",
		"ip neigh add 2001:db8:1::7 lladdr 02:00:00:00:00:01 dev veth0")
	for _, iptables := range []string{"iptables", "ip6tables"} {
		netnstest.Run(t, iptables+" -w -t raw -A PREROUTING -i lo -p tcp -m mark ! --mark 0x10000000/0xf0000000 -j DROP",
			iptables+" -w -t raw -A OUTPUT -m mark --mark 0x10000000/0xf0000000 -j CT --notrack")
	}
	out := newCapture(t, "veth1")
	s := open(t, discard())
	for _, f := range families {
		segment := syn(f.client, f.server, listen(t, f.bind))
		segment.SrcPort = f.port
		s.Add(&segment)
		s.Flush()
		expectSYNACK(t, f.name, &segment, out.next(t, f.port))
	}
	if c := s.Counters(); c != (Counters{Sent: 2}) {
		t.Errorf("counters %+v", c)
	}
}

func expectSYNACK(t *testing.T, name string, s *packet.Segment, p packet.Packet) {
	t.Helper()
	if !p.IsSYNACK() || p.Tuple != s.Tuple.Reverse() || p.Ack != s.Seq+1 || !p.Options.HasWScale || !p.Options.SACKPermitted {
		t.Errorf("%s: the server answered %+v", name, p)
	}
}

// TestVeth:
//
//	client namespace 198.51.100.7 veth0 --- veth1 192.0.2.10 server namespace
//
// The client's namespace sends SYNs in the name of an address behind it, and
// sees the server's answers.
func TestVeth(t *testing.T) {
	client := netnstest.New(t)
	server := netnstest.New(t)
	// A link-local address that is still being checked for duplicates solicits nobody.
	netnstest.Run(t, "ip link add veth1 type veth peer veth0", "sysctl -qw net.ipv6.conf.veth1.accept_dad=0", fmt.Sprintf("ip link set veth0 netns /proc/%d/fd/%d", os.Getpid(), int(client)),
		"ip addr add 192.0.2.10/24 dev veth1", "ip -6 addr add 2001:db8::10/64 dev veth1 nodad", "ip link set veth1 up",
		"ip route add 198.51.100.0/24 via 192.0.2.1", "ip -6 route add 2001:db8:1::/64 via 2001:db8::1")
	netnstest.Enter(t, client)
	netnstest.Run(t, "sysctl -qw net.ipv6.conf.veth0.accept_dad=0", "ip addr add 192.0.2.1/24 dev veth0", "ip -6 addr add 2001:db8::1/64 dev veth0 nodad", "ip link set veth0 up")
	in := newCapture(t, "veth0")
	s := open(t, discard())
	for _, f := range families {
		netnstest.Enter(t, server)
		port := listen(t, f.bind)
		netnstest.Enter(t, client)
		segment := syn(f.client, f.server, port)
		segment.SrcPort = f.port
		s.Add(&segment)
		s.Flush()
		expectSYNACK(t, f.name, &segment, in.next(t, f.port))
	}
	if c := s.Counters(); c != (Counters{Sent: 2}) {
		t.Errorf("counters %+v", c)
	}
}

// TestPolicyRouting: a machine with two uplinks, the second for what comes from
// its own address there and from a server behind the machine.
//
//	first --- first-peer   192.0.2.1     2001:db8:a::1   the default route
//	second --- second-peer 198.51.100.1  2001:db8:b::1   ip rule from … table 7
func TestPolicyRouting(t *testing.T) {
	netnstest.New(t)
	for i, device := range []string{"first", "second"} {
		netnstest.Run(t, fmt.Sprintf("ip link add %s type veth peer %s-peer", device, device),
			fmt.Sprintf("ip link set %s up", device), fmt.Sprintf("ip link set %s-peer up", device),
			fmt.Sprintf("ip addr add %s/24 dev %s", []string{"192.0.2.1", "198.51.100.1"}[i], device),
			fmt.Sprintf("ip -6 addr add %s/64 dev %s nodad", []string{"2001:db8:a::1", "2001:db8:b::1"}[i], device))
		for _, gateway := range []string{[]string{"192.0.2.2", "198.51.100.2"}[i], []string{"2001:db8:a::2", "2001:db8:b::2"}[i]} {
			netnstest.Run(t, fmt.Sprintf("ip neigh add %s lladdr 02:00:00:00:00:01 dev %s", gateway, device),
				fmt.Sprintf("ip route add default via %s table %s", gateway, []string{"main", "7"}[i]))
		}
	}
	netnstest.Run(t, "ip rule add from 198.51.100.0/24 table 7", "ip rule add from 203.0.113.10 table 7",
		"ip -6 rule add from 2001:db8:b::/64 table 7", "ip -6 rule add from 2001:db8:f::10 table 7")
	s := open(t, discard())
	for i, tt := range []struct{ from, to, device string }{
		{"192.0.2.1", "100.64.0.7", "first"}, {"198.51.100.1", "100.64.0.7", "second"}, {"203.0.113.10", "100.64.0.7", "second"},
		{"203.0.113.11", "100.64.0.7", "first"}, // anyone else's
		{"2001:db8:a::1", "2001:db8:1::7", "first"}, {"2001:db8:b::1", "2001:db8:1::7", "second"}, {"2001:db8:f::10", "2001:db8:1::7", "second"},
		{"2001:db8:f::11", "2001:db8:1::7", "first"},
	} {
		out := newCapture(t, tt.device+"-peer")
		segment := syn(tt.from, tt.to, uint16(80+i))
		s.Add(&segment)
		s.Flush()
		if p := out.next(t, segment.DstPort); p.Tuple != segment.Tuple {
			t.Errorf("%s: %v left for %v", tt.device, p.Tuple, segment.Tuple)
		}
	}
	if c := s.Counters(); c != (Counters{Sent: 8}) {
		t.Errorf("counters %+v", c)
	}
}

// TestOrderAndChecksums sends more than fits into a batch.
func TestOrderAndChecksums(t *testing.T) {
	netnstest.New(t)
	in := newCapture(t, "lo")
	s := open(t, discard())
	const n = 3*capacity + 1
	for i := range n {
		for _, address := range []string{"127.0.0.1", "::1"} {
			segment := syn(address, address, 9)
			segment.Seq = seqnum.Value(i)
			s.Add(&segment)
		}
	}
	s.Flush()
	next := map[bool]seqnum.Value{}
	for range 2 * n {
		p := in.next(t, 9)
		if r := in.decoder.Verify(); r != packet.ReasonMatch {
			t.Fatalf("%v: %v", p.Tuple, r)
		}
		if p.Seq != next[p.Is4()] {
			t.Fatalf("%v: segment %d, want %d", p.Tuple, p.Seq, next[p.Is4()])
		}
		next[p.Is4()]++
	}
	if c := s.Counters(); c.Sent != 2*n || c.Failed != 0 {
		t.Errorf("counters %+v", c)
	}
}

// TestOneBadDestination: a segment without a route, and one that a rule drops,
// cost no other.
func TestOneBadDestination(t *testing.T) {
	netnstest.New(t)
	netnstest.Run(t, "iptables -w -A OUTPUT -d 127.0.0.9 -j DROP")
	in := newCapture(t, "lo")
	var log bytes.Buffer
	s := open(t, slog.New(slog.NewTextHandler(&log, nil)))
	for range 30 {
		for _, to := range []string{"127.0.0.1", "203.0.113.1", "127.0.0.9", "127.0.0.1", "2001:db8::1"} {
			from := "127.0.0.1"
			if strings.Contains(to, ":") {
				from = "::1"
			}
			segment := syn(from, to, 9)
			s.Add(&segment)
		}
	}
	s.Flush()
	for range 60 {
		in.next(t, 9)
	}
	if c := s.Counters(); c.Sent != 60 || c.Failed != 90 {
		t.Errorf("counters %+v", c)
	}
	if n := strings.Count(log.String(), "segment not sent"); n != 1 {
		t.Errorf("%d log lines: %s", n, log.String())
	}
}

func TestAllocations(t *testing.T) {
	netnstest.New(t)
	s := open(t, discard())
	four, six := syn("127.0.0.1", "127.0.0.1", 9), syn("::1", "::1", 9)
	if n := testing.AllocsPerRun(100, func() { s.Add(&four); s.Add(&six); s.Flush() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestWithoutIPv6(t *testing.T) {
	netnstest.New(t)
	s := open(t, discard())
	unix.Close(s.ipv6.fd)
	s.ipv6.fd = -1
	six := syn("::1", "::1", 9)
	s.Add(&six)
	s.Flush()
	if c := s.Counters(); c != (Counters{Failed: 1}) {
		t.Errorf("counters %+v", c)
	}
}

func BenchmarkFlush(b *testing.B) {
	for _, f := range []struct{ name, address, iptables string }{{"IPv4", "127.0.0.1", "iptables"}, {"IPv6", "::1", "ip6tables"}} {
		b.Run(f.name, func(b *testing.B) {
			netnstest.New(b)
			netnstest.Run(b, f.iptables+" -w -t raw -A PREROUTING -j DROP")
			s := open(b, discard())
			segment := syn(f.address, f.address, 9)
			b.ReportAllocs()
			for b.Loop() {
				for range 64 {
					s.Add(&segment)
				}
				s.Flush()
			}
			b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "segments/s")
		})
	}
}
