package offload

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/wire"
)

// path is a client's namespace, and the one of a server whose kernel translates:
//
//	client namespace veth0 192.0.2.1 --- veth1 192.0.2.10 server namespace
//
// Neither side's SYN is tracked in the server's, as neither is where the SYN
// proxy answers it.
type path struct {
	client, server netns.NsHandle
	table          *Table // the server's
}

// newPath leaves the test in the client's namespace.
func newPath(t *testing.T) path {
	t.Helper()
	p := path{client: netnstest.New(t), server: netnstest.New(t)}
	netnstest.Run(t, "ip link add veth1 type veth peer veth0", "sysctl -qw net.ipv6.conf.veth1.accept_dad=0",
		fmt.Sprintf("ip link set veth0 netns /proc/%d/fd/%d", os.Getpid(), int(p.client)),
		"ip addr add 192.0.2.10/24 dev veth1", "ip -6 addr add 2001:db8::10/64 dev veth1 nodad", "ip link set veth1 up",
		"ip route add 198.51.100.0/24 via 192.0.2.1", "ip -6 route add 2001:db8:1::/64 via 2001:db8::1")
	for _, iptables := range []string{"iptables", "ip6tables"} {
		netnstest.Run(t, iptables+" -w -t raw -A PREROUTING -p tcp --tcp-flags SYN SYN -j CT --notrack",
			iptables+" -w -t raw -A OUTPUT -p tcp --tcp-flags SYN SYN -j CT --notrack",
			iptables+" -w -t mangle -A PREROUTING -p tcp -m conntrack --ctstate NEW,INVALID -j DROP")
	}
	if _, err := Accounting.Set(true); err != nil {
		t.Fatal(err)
	}
	p.table = open(t)
	netnstest.Enter(t, p.client)
	netnstest.Run(t, "sysctl -qw net.ipv6.conf.veth0.accept_dad=0", "ip addr add 192.0.2.1/24 dev veth0",
		"ip -6 addr add 2001:db8::1/64 dev veth0 nodad", "ip link set veth0 up")
	return p
}

// listen opens a server, and leaves the test in the client's namespace.
func (p *path) listen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	netnstest.Enter(t, p.server)
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	netnstest.Enter(t, p.client)
	return l.(*net.TCPListener)
}

// behind are addresses behind the client's namespace, and the server's.
var behind = [][2]string{{"198.51.100.7", "192.0.2.10"}, {"2001:db8:1::7", "2001:db8::10"}}

// TestTranslate: a server on this machine, and a client that is told another
// initial sequence number than the server's. The client is the test itself, in
// the name of an address behind its namespace, so that no kernel answers for it.
func TestTranslate(t *testing.T) {
	p := newPath(t)
	for i, addresses := range behind {
		for j, diff := range []seqnum.Size{1, 0x12345678, 0xffffffff} {
			listener := p.listen(t, addresses[1])
			translate(t, newPeer(t, addresses, uint16(51000+10*i+j), listener), p.table, listener, diff)
		}
	}
}

// translate opens a connection, has it translated, and closes it with a RST.
func translate(t *testing.T, c *peer, table *Table, listener *net.TCPListener, diff seqnum.Size) {
	t.Helper()
	c.send(packet.SYN, 1000, 0)
	answer := c.next()
	isn := answer.Seq
	mustCreate(t, table, packet.Offload{
		Tuple: c.tuple, Timeout: time.Minute, SeqDiff: diff, ServerISN: isn,
		SrcWScale: 7, DstWScale: answer.Options.WScale, HasWScale: true,
	})
	told := isn.Add(diff) // the server's ISN as the client knows it
	c.send(packet.ACK, 1001, told+1)
	conn, err := accept(listener)
	if err != nil {
		t.Fatalf("diff %x: the server did not see the ACK translated: %v", diff, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	data := c.nextData()
	if data.Seq != told+1 || data.Ack != 1001 || data.PayloadLen != 5 {
		t.Errorf("diff %x: the client got %+v, want sequence number %d", diff, data, told+1)
	}
	c.send(packet.ACK, 1001, told+6)
	if k, e, err := table.Query(c.tuple); k != packet.KernelPresent || !e.HasTraffic ||
		e.Original.Packets < 1 || e.Reply.Packets < 1 || e.Timeout < time.Hour || err != nil {
		t.Errorf("%v, %+v, %v", k, e, err)
	}
	c.send(packet.RST, 1001, 0)
	if k, e := waitClosed(t, table, c.tuple); k != packet.KernelReset || e.State != Close {
		t.Errorf("after the RST: %v, %+v", k, e)
	}
}

func accept(l *net.TCPListener) (net.Conn, error) {
	_ = l.SetDeadline(time.Now().Add(3 * time.Second))
	return l.Accept()
}

func waitClosed(t *testing.T, table *Table, tuple packet.Tuple) (packet.Kernel, Entry) {
	t.Helper()
	var k packet.Kernel
	var e Entry
	for range 100 {
		var err error
		if k, e, err = table.Query(tuple); err != nil || e.State == Close {
			return k, e
		}
		time.Sleep(10 * time.Millisecond)
	}
	return k, e
}

// peer is the client: a raw socket to send, a packet socket to hear.
type peer struct {
	t        *testing.T
	tuple    packet.Tuple
	options  packet.Options // of what it sends
	out, in  int
	to       unix.Sockaddr
	decoder  *wire.Decoder
	received []byte
}

func newPeer(t *testing.T, addresses [2]string, port uint16, listener *net.TCPListener) *peer {
	t.Helper()
	c := &peer{t: t, decoder: wire.NewDecoder(), received: make([]byte, 2048)}
	c.options = packet.Options{MSS: 1460, HasWScale: true, WScale: 7}
	server := listener.Addr().(*net.TCPAddr).AddrPort()
	c.tuple = packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr(addresses[0]), port), server)
	family := unix.AF_INET6
	c.to = &unix.SockaddrInet6{Addr: c.tuple.Dst}
	if c.tuple.Is4() {
		family = unix.AF_INET
		c.to = &unix.SockaddrInet4{Addr: [4]byte(c.tuple.Dst[12:])}
	}
	c.out = c.socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW)
	var protocol [2]byte
	binary.BigEndian.PutUint16(protocol[:], unix.ETH_P_ALL)
	c.in = c.socket(unix.AF_PACKET, unix.SOCK_DGRAM, int(binary.NativeEndian.Uint16(protocol[:])))
	if err := unix.SetsockoptTimeval(c.in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *peer) socket(family, typ, protocol int) int {
	c.t.Helper()
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (c *peer) send(flags packet.Flags, seq, ack seqnum.Value) {
	c.t.Helper()
	s := packet.Segment{Tuple: c.tuple, Seq: seq, Ack: ack, Window: 1000, Flags: flags, Options: c.options}
	if err := unix.Sendto(c.out, wire.Append(nil, &s), 0, c.to); err != nil {
		c.t.Fatal(err)
	}
}

// nextData is the next packet to the client that is no answer to its SYN, which
// may be sent again before the ACK comes.
func (c *peer) nextData() packet.Packet {
	c.t.Helper()
	for {
		if p := c.next(); !p.IsSYNACK() {
			return p
		}
	}
}

// next is the next packet to the client.
func (c *peer) next() packet.Packet {
	c.t.Helper()
	for {
		n, from, err := unix.Recvfrom(c.in, c.received, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			c.t.Fatalf("nothing for %v: %v", c.tuple, err)
		}
		var p packet.Packet
		if c.decoder.Decode(c.received[:n], 0, &p) == packet.ReasonMatch && p.Tuple == c.tuple.Reverse() &&
			from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING {
			return p
		}
	}
}
