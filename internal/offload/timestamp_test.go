package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// hooked adds the rule that has the kernel translate timestamps, and matches nothing.
func (p *path) hooked(t *testing.T) {
	t.Helper()
	netnstest.Enter(t, p.server)
	for _, iptables := range []string{"iptables", "ip6tables"} {
		netnstest.Run(t, iptables+" -w -t mangle -A INPUT -p tcp -m mark --mark 1 -j SYNPROXY")
	}
	netnstest.Enter(t, p.client)
}

// stat is a counter of /proc/net/netstat in a namespace.
func stat(t *testing.T, ns path, server bool, name string) int {
	t.Helper()
	if server {
		netnstest.Enter(t, ns.server)
		defer netnstest.Enter(t, ns.client)
	}
	var names []string
	for line := range strings.Lines(netnstest.Run(t, "cat /proc/net/netstat")) {
		words := strings.Fields(line)
		for i, word := range names {
			if i > 0 && word == name {
				n, err := strconv.Atoi(words[i])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		names = words
	}
	t.Fatalf("the kernel counts no %s", name)
	return 0
}

// The client's clock when it sends its SYN.
const clientTSVal = 500_000

// shake does the client's handshake with a server that agrees on timestamps,
// and has the connection translated. It gives the server's SYN+ACK as the client
// is told it.
func (c *peer) shake(t *testing.T, table *Table, seqDiff seqnum.Size, tsDiff uint32) packet.Packet {
	t.Helper()
	c.options.SACKPermitted, c.options.HasTimestamp, c.options.TSVal = true, true, clientTSVal
	c.send(packet.SYN, 1000, 0)
	told := c.next()
	if !told.IsSYNACK() || !told.Options.HasTimestamp || told.Options.TSEcr != clientTSVal {
		t.Fatalf("the server answered %+v", told)
	}
	mustCreate(t, table, packet.Offload{
		Tuple: c.tuple, Timeout: time.Minute, SeqDiff: seqDiff, TSDiff: tsDiff, ServerISN: told.Seq,
		SrcWScale: 7, DstWScale: told.Options.WScale, HasWScale: true, SACKPermitted: true,
	})
	told.Seq = told.Seq.Add(seqDiff)
	told.Options.TSVal += tsDiff
	c.options.TSVal++
	c.options.TSEcr = told.Options.TSVal
	c.send(packet.ACK, 1001, told.Seq+1)
	return told
}

// TestTimestamps: the client is told another clock than the server's.
func TestTimestamps(t *testing.T) {
	p := newPath(t)
	p.hooked(t)
	for i, addresses := range behind {
		for j, diff := range []uint32{0, 0x12345678, 0x80000000, 0xffff0000} {
			listener := p.listen(t, addresses[1])
			c := newPeer(t, addresses, uint16(52000+10*i+j), listener)
			told := c.shake(t, p.table, seqnum.Size(diff>>1), diff)
			conn, err := accept(listener)
			if err != nil {
				t.Fatalf("diff %x: the server did not take the handshake's ACK: %v", diff, err)
			}
			clock(t, c, conn, told, diff)
			conn.Close()
			listener.Close()
		}
	}
	// The server compares the echo of the handshake's ACK with what it has sent.
	if n := stat(t, p, true, "TSEcrRejected"); n != 0 {
		t.Errorf("%d echoes rejected", n)
	}
}

// clock compares the clock that the client hears with the server's own.
func clock(t *testing.T, c *peer, conn net.Conn, told packet.Packet, diff uint32) {
	t.Helper()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	data := c.nextData()
	now, err := timestamp(conn)
	if err != nil {
		t.Fatal(err)
	}
	own, least := data.Options.TSVal-diff, told.Options.TSVal-diff
	now++ // what is sent may be stamped with the time it is to leave
	if data.Seq != told.Seq+1 || data.Options.TSEcr != clientTSVal+1 || int32(own-least) < 0 || int32(now-own) < 0 {
		t.Errorf("diff %x: the client got %+v, the server's clock went from %d to %d", diff, data, least, now)
	}
}

// timestamp is the clock by which a socket stamps what it sends.
func timestamp(c net.Conn) (uint32, error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var v int
	var inner error
	err = raw.Control(func(fd uintptr) { v, inner = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_TIMESTAMP) })
	return uint32(v), errors.Join(err, inner)
}

// Without the rule nothing is translated, and the server rejects the handshake:
// Linux has checked the echo since 6.15 (tcp_minisocks.c: tcp_check_req).
func TestTimestampsWithoutHook(t *testing.T) {
	p := newPath(t)
	listener := p.listen(t, behind[0][1])
	before := stat(t, p, true, "TSEcrRejected")
	c := newPeer(t, behind[0], 52900, listener)
	told := c.shake(t, p.table, 0, 0x12345678)
	for range 300 {
		if stat(t, p, true, "TSEcrRejected") > before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the server took an echo of %d, which it had not sent", told.Options.TSVal)
}

// TestServerReset pins what the kernel does to a server's RST under the hook,
// whether timestamps are translated or not: its number becomes the one after the
// ISN that the entry was told, 0 if none, so that the client does not obey it
// (nf_synproxy_core.c: ipv4_synproxy_hook, state CLOSE). Who lets such a RST pass
// has to send its own instead.
func TestServerReset(t *testing.T) {
	p := newPath(t)
	p.hooked(t)
	for i, addresses := range behind {
		for j, tsDiff := range []uint32{0x9abcdef0, 0} {
			listener := p.listen(t, addresses[1])
			c := newPeer(t, addresses, uint16(54000+10*i+j), listener)
			told := c.shake(t, p.table, 0x12345678, tsDiff)
			conn, err := accept(listener)
			if err != nil {
				t.Fatal(err)
			}
			clock(t, c, conn, told, tsDiff) // sends data
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
			want := told.Seq + 1
			if tsDiff == 0 {
				want = 1
			}
			if r := c.nextReset(); r.Seq != want {
				t.Errorf("the number of the RST is %d, want %d", r.Seq, want)
			}
			listener.Close()
		}
	}
}

// nextReset is the next RST to the client.
func (c *peer) nextReset() packet.Packet {
	c.t.Helper()
	for {
		if p := c.next(); p.Flags.Has(packet.RST) {
			return p
		}
	}
}

// TestTransfer carries data both ways between real sockets while packets get
// lost on either side of the translation, so that SACK has work to do.
func TestTransfer(t *testing.T) {
	p := newPath(t)
	p.hooked(t)
	// Of the packets with payload.
	const lost = " -p tcp -m length --length 1000:65535 -m statistic --mode nth --every 29 --packet 20 -j DROP"
	for _, iptables := range []string{"iptables", "ip6tables"} {
		// The client's socket comes into being after the handshake.
		netnstest.Run(t, iptables+" -w -t raw -A PREROUTING -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP",
			iptables+" -w -t raw -A PREROUTING"+lost)
		netnstest.Enter(t, p.server)
		netnstest.Run(t, iptables+" -w -t raw -A PREROUTING"+lost)
		netnstest.Enter(t, p.client)
	}
	for i, addresses := range [][2]string{{"192.0.2.1", "192.0.2.10"}, {"2001:db8::1", "2001:db8::10"}} {
		listener := p.listen(t, addresses[1])
		c := newPeer(t, addresses, uint16(53000+i), listener)
		told := c.shake(t, p.table, 0x9abcdef0, 0xfedcba98)
		server, err := accept(listener)
		if err != nil {
			t.Fatal(err)
		}
		client := c.socketAfter(told)
		checkOptions(t, client, server)
		echoed(t, client, server)
		client.Close()
		server.Close()
	}
	for _, server := range []bool{true, false} {
		if n := stat(t, p, server, "TCPSackRecovery"); n == 0 {
			t.Errorf("server %v: nothing was sent again for a SACK", server)
		}
		for _, name := range []string{"TCPSACKDiscard", "PAWSEstab", "TSEcrRejected"} {
			if n := stat(t, p, server, name); n != 0 {
				t.Errorf("server %v: %s is %d", server, name, n)
			}
		}
	}
}

// echoed sends octets to the server, which sends them back.
func echoed(t *testing.T, client, server net.Conn) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	_ = client.SetDeadline(deadline)
	_ = server.SetDeadline(deadline)
	go func() {
		_, _ = io.Copy(server, server) // ends with either socket
	}()
	sent := bytes.Repeat([]byte("abcdefghijklmnopqrstuvw"), 200_000)
	failed := make(chan error, 1)
	go func() {
		_, err := client.Write(sent)
		failed <- err
	}()
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(client, got); err != nil {
		t.Fatalf("after %d octets: %v", n, err)
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("the octets came back changed")
	}
}

// checkOptions asks both sockets what they agreed on.
func checkOptions(t *testing.T, conns ...net.Conn) {
	t.Helper()
	for _, c := range conns {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		const want = 1 | 2 | 4 // TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil || info.Options&want != want {
				t.Errorf("%v: options %+v, %v", c.LocalAddr(), info, err)
			}
		})
	}
}

// socketAfter makes a socket of the client's side of a connection whose
// handshake is done, as CRIU does (tcp(7): TCP_REPAIR).
func (c *peer) socketAfter(told packet.Packet) net.Conn {
	c.t.Helper()
	family, local, remote := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(c.tuple.SrcPort), Addr: c.tuple.Src}),
		unix.Sockaddr(&unix.SockaddrInet6{Port: int(c.tuple.DstPort), Addr: c.tuple.Dst})
	if c.tuple.Is4() {
		family = unix.AF_INET
		local = &unix.SockaddrInet4{Port: int(c.tuple.SrcPort), Addr: [4]byte(c.tuple.Src[12:])}
		remote = &unix.SockaddrInet4{Port: int(c.tuple.DstPort), Addr: [4]byte(c.tuple.Dst[12:])}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	set := func(option, value int) {
		err = errors.Join(err, os.NewSyscallError("setsockopt "+strconv.Itoa(option), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value)))
	}
	const recvQueue, sendQueue = 1, 2 // TCP_RECV_QUEUE, TCP_SEND_QUEUE
	set(unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	err = errors.Join(err, unix.Bind(fd, local))
	set(unix.TCP_REPAIR_QUEUE, sendQueue)
	set(unix.TCP_QUEUE_SEQ, 1001)
	set(unix.TCP_REPAIR_QUEUE, recvQueue)
	set(unix.TCP_QUEUE_SEQ, int(uint32(told.Seq+1)))
	err = errors.Join(err, unix.Connect(fd, remote), repairOptions(fd, 7, told.Options.WScale))
	set(unix.TCP_TIMESTAMP, int(c.options.TSVal+1))
	set(unix.TCP_REPAIR, unix.TCP_REPAIR_OFF)
	conn, err2 := net.FileConn(file)
	if err = errors.Join(err, err2); err != nil {
		c.t.Fatal(err)
	}
	return conn
}

// repairOptions tells a socket what its handshake agreed on: struct
// tcp_repair_opt, a code and a value each.
func repairOptions(fd int, own, other uint8) error {
	const maxSegment, window, sackPermitted, timestamp = 2, 3, 4, 8 // TCPOPT_…
	var b []byte
	for _, o := range [][2]uint32{
		{maxSegment, 1460}, {window, uint32(other) | uint32(own)<<16}, {sackPermitted, 0}, {timestamp, 0},
	} {
		b = binary.NativeEndian.AppendUint32(b, o[0])
		b = binary.NativeEndian.AppendUint32(b, o[1])
	}
	return os.NewSyscallError("set TCP_REPAIR_OPTIONS", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR_OPTIONS, string(b)))
}
