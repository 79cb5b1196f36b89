package integration

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

const (
	bypassLimit = 2
	bypassTries = 6
)

// A second SYN with the number before, while the handshake is open, does not
// turn the first one's last ACK into something the server sees and the firewall
// does not.
func TestSecondSYN(t *testing.T) {
	under(t, "keep", places, Families, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel()
		s := newStranger(t, guard(t, policy, at, f, bypassLimit, AcceptOptions{}), 0)
		watch := s.sample(s.from)
		for port := range uint16(bypassTries) {
			answer := s.ask(port, rawPacket{})
			s.say(port, rawPacket{seq: strangerISN - 1, flags: flagSYN})
			s.complete(port, answer)
		}
		time.Sleep(pause)
		s.expectAgreement()
		// Without it as many get in as may.
		for port := range uint16(bypassTries) {
			s.complete(100+port, s.ask(100+port, rawPacket{}))
		}
		s.expectFull()
		watch.expect(s.guarded, bypassLimit)
	})
}

// Segments that a server sends when it lets a connection go.
var farewells = []struct {
	name  string
	flags byte
}{
	{"FIN", flagFIN | flagACK},
	{"RST", flagRST},
	{"RST with ACK", flagRST | flagACK},
}

// What comes from the client's wire in the server's name frees no slot: the
// server has not said it. One that is the gateway itself says nothing on any
// wire.
func TestForgedFarewell(t *testing.T) {
	everywhere(t, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel()
		g := guard(t, policy, at, f, bypassLimit, AcceptOptions{Echo: true})
		wires := []*rawWire{openWire(t, g.lab, f)}
		if g.server() == g.lab.Gateway {
			wires = append(wires, openSecondWire(t, g.lab, f))
		}
		for i, wire := range wires {
			for j, k := range farewells {
				g.tryFarewell(wire, g.source(10*i+j), k.name, k.flags)
			}
		}
	})
}

// openSecondWire opens the client's link to its second network.
func openSecondWire(t *testing.T, l *Lab, f Family) *rawWire {
	t.Helper()
	return openLink(t, linkEnd{l.Client, "eth1"}, linkEnd{l.Gateway, "eth2"}, f)
}

// tryFarewell fills the limit of a source, forges a farewell of each connection
// and finds them all as they were.
func (g *guarded) tryFarewell(wire *rawWire, from netip.Addr, name string, flags byte) {
	g.t.Helper()
	pairs := []pair{g.open(from), g.open(from)}
	g.waitSummary(from, "2 ESTABLISHED:ESTABLISHED")
	for _, p := range pairs {
		g.forgeServer(wire, p.client, flags)
	}
	time.Sleep(pause)
	more := g.lab.Client.Hold(g.ctx, HoldOptions{From: from, To: g.srv.Addr(), N: bypassTries})
	if more.Count(Refused)+more.Count(Reset) != bypassTries {
		g.t.Errorf("forged %s: then %v, want none held", name, more)
	}
	if held, counted := len(g.held(from)), g.counted(from); held != bypassLimit || counted != bypassLimit {
		g.t.Errorf("forged %s: the server holds %d, and %d count: %s", name, held, counted, summary(g.statesOf(from)))
	}
	for _, p := range pairs {
		echo(g.t, p.client) // it has not come to the client either
	}
}

// forgeServer sends what a client's socket would take for its server's next
// segment.
func (g *guarded) forgeServer(wire *rawWire, c *net.TCPConn, flags byte) {
	g.t.Helper()
	seq, ack, err := numbers(c)
	if err != nil {
		g.t.Fatalf("sequence numbers: %v", err)
	}
	p := rawPacket{src: addrPortOf(c.RemoteAddr()), dst: addrPortOf(c.LocalAddr()), seq: ack, ack: seq, flags: flags}
	if err := wire.send(p.octets()); err != nil {
		g.t.Fatal(err)
	}
}

// Kinds of TCP options.
const (
	optionFastOpen   = 34
	optionExperiment = 254
)

// SYNs with which a server that speaks TCP Fast Open (RFC 7413) accepts a
// connection at once, given a cookie of its own.
var fastSYNs = []struct {
	name string
	syn  func(cookie []byte) rawPacket
}{
	{"a cookie", func(cookie []byte) rawPacket {
		return rawPacket{options: tcpOption(optionFastOpen, cookie)}
	}},
	{"a cookie and data", func(cookie []byte) rawPacket {
		return rawPacket{options: tcpOption(optionFastOpen, cookie), payload: []byte("data")}
	}},
	{"a cookie in the older form", func(cookie []byte) rawPacket {
		return rawPacket{options: tcpOption(optionExperiment, append([]byte{0xf9, 0x89}, cookie...))}
	}},
}

// tcpOption writes an option, with NOPs up to a multiple of 4.
func tcpOption(kind byte, data []byte) []byte {
	b := append([]byte{kind, byte(2 + len(data))}, data...)
	for len(b)%4 != 0 {
		b = append(b, 1)
	}
	return b
}

// With Fast Open, too, the application accepts nothing before the handshake is
// done, and then no more than the limit.
func TestFastOpenWaits(t *testing.T) {
	under(t, "keep", places, Families, func(t *testing.T, policy string, at place, f Family) {
		t.Parallel()
		g := guard(t, policy, at, f, bypassLimit, AcceptOptions{})
		free := g.allowFastOpen(AcceptOptions{})
		for i, k := range fastSYNs {
			s := newStranger(t, g, i)
			s.tryFastOpen(free, k.name, k.syn(s.fastCookie(free)))
		}
	})
}

// tryFastOpen sends a SYN to the port without a rule, to see that it works, and
// then to the server's.
func (s *stranger) tryFastOpen(free *AcceptCounter, name string, syn rawPacket) {
	s.t.Helper()
	before := free.Count()
	syn.dst = free.Addr()
	s.ask(0, syn)
	must[*net.TCPConn](s.t, name+", without a rule")(free.Conn(s.ctx, before))
	syn.dst = s.srv.Addr()
	before = s.srv.Count()
	var answers []*layers.TCP
	for port := range uint16(bypassTries) {
		answers = append(answers, s.ask(100+port, syn))
	}
	time.Sleep(pause)
	if n := s.srv.Count() - before; n > 0 {
		s.t.Errorf("%s: %d accepted before the handshake was done", name, n)
	}
	for i, a := range answers {
		s.complete(100+uint16(i), a)
	}
	s.expectFull()
	if n := s.srv.Count() - before; n > bypassLimit {
		s.t.Errorf("%s: %d accepted, the limit is %d", name, n, bypassLimit)
	}
}

// allowFastOpen lets the server speak Fast Open, and another one on a port
// without a rule. A cookie is for an address: the one gives what the other takes.
func (g *guarded) allowFastOpen(opts AcceptOptions) (free *AcceptCounter) {
	g.t.Helper()
	if err := g.server().Sysctl("net.ipv4.tcp_fastopen", "3"); err != nil {
		g.t.Fatal(err)
	}
	free = must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(81), opts))
	for _, srv := range []*AcceptCounter{g.srv, free} {
		raw, err := srv.listener.SyscallConn()
		if err != nil {
			g.t.Fatal(err)
		}
		ctl := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 100) })
		if ctl != nil || err != nil {
			g.t.Fatalf("TCP_FASTOPEN: %v %v", ctl, err)
		}
	}
	return free
}

// fastCookie gets the stranger a cookie.
func (s *stranger) fastCookie(free *AcceptCounter) []byte {
	s.t.Helper()
	answer := s.ask(1, rawPacket{dst: free.Addr(), options: tcpOption(optionFastOpen, nil)})
	i := slices.IndexFunc(answer.Options, func(o layers.TCPOption) bool { return o.OptionType == optionFastOpen })
	if i < 0 {
		s.t.Fatal("the server gave no cookie")
	}
	return answer.Options[i].OptionData
}

// Ways in which a client asks its kernel for Fast Open.
var fastDials = []struct {
	name string
	send func(fd int, data []byte, to unix.Sockaddr) error
}{
	{"MSG_FASTOPEN", func(fd int, data []byte, to unix.Sockaddr) error {
		return unix.Sendto(fd, data, unix.MSG_FASTOPEN, to)
	}},
	{"TCP_FASTOPEN_CONNECT", func(fd int, data []byte, to unix.Sockaddr) error {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
			return err
		}
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		_, err := unix.Write(fd, data)
		return err
	}},
}

// A client that uses Fast Open is served, be its SYN with a cookie and data or
// with the question for one, and none of what it sends is lost.
func TestFastOpenClient(t *testing.T) {
	for _, policy := range policies {
		under(t, policy, places, Families, func(t *testing.T, policy string, at place, f Family) {
			t.Parallel()
			g := guardWith(t, webConfig(policy, bypassLimit), at, f, AcceptOptions{Echo: true})
			free := g.allowFastOpen(AcceptOptions{Echo: true})
			heard := openCapture(t, g.lab)
			for i, k := range fastDials {
				g.expectFast(heard, g.srv, g.source(i), false, k.send)
				g.expectFast(heard, free, g.source(i), false, k.send) // it gives a cookie
				g.expectFast(heard, g.srv, g.source(i), true, k.send)
				if held, counted := len(g.held(g.source(i))), g.counted(g.source(i)); held != 2 || counted != 2 {
					t.Errorf("%s: the server holds %d, and %d count", k.name, held, counted)
				}
			}
			g.expectNoLosses()
		})
	}
}

// fastData is more than fits into a SYN.
var fastData = bytes.Repeat([]byte("fast data\n"), 500)

// expectFast sends data with Fast Open, some of it in the SYN or none, and hears
// the echo.
func (g *guarded) expectFast(heard *capture, srv *AcceptCounter, from netip.Addr, inSYN bool, send func(int, []byte, unix.Sockaddr) error) {
	g.t.Helper()
	start := time.Now()
	c := must[net.Conn](g.t, "Fast Open")(g.lab.Client.dialFast(from, func(fd int) error { return send(fd, fastData, sockaddr(srv.Addr())) }))
	g.t.Cleanup(func() { c.Close() })
	syn := heard.next(g.t, addrPortOf(c.LocalAddr()), srv.Addr())
	if !syn.SYN || inSYN != (len(syn.Payload) > 0) || !bytes.HasPrefix(fastData, syn.Payload) {
		g.t.Errorf("the client began with %d octets, want a SYN, with data %v", len(syn.Payload), inSYN)
	}
	got := make([]byte, len(fastData))
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, fastData) {
		g.t.Fatalf("echo: %d octets of %d, %v", len(got), len(fastData), err)
	}
	if took := time.Since(start); took > 2*time.Second {
		g.t.Errorf("data in the SYN %v: the echo takes %v", inSYN, took)
	}
	g.t.Logf("data in the SYN %v: %v", inSYN, time.Since(start).Round(time.Millisecond))
}

// dialFast makes a socket that connect then connects.
func (n *Namespace) dialFast(from netip.Addr, connect func(fd int) error) (net.Conn, error) {
	family := unix.AF_INET
	if from.Is6() {
		family = unix.AF_INET6
	}
	var file *os.File
	err := n.Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		file = os.NewFile(uintptr(fd), "")
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		wait := unix.Timeval{Sec: 3} // for connect, which blocks
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait); err != nil {
			return err
		}
		return connect(fd)
	})
	defer file.Close() // FileConn copies it
	if err != nil {
		return nil, err
	}
	return net.FileConn(file)
}

// A stranger is a client made of raw packets: no kernel speaks in its name.
type stranger struct {
	*guarded
	from  netip.Addr
	wire  *rawWire
	heard *capture
}

const (
	strangerISN   = 5000
	strangerPorts = 30000 // the first
)

func newStranger(t *testing.T, g *guarded, i int) *stranger {
	t.Helper()
	return &stranger{g, AbsentAddr(g.family, i), openWire(t, g.lab, g.family), openCapture(t, g.lab)}
}

// say sends a packet from one of the stranger's ports, to the server if the
// packet names nobody else.
func (s *stranger) say(port uint16, p rawPacket) {
	s.t.Helper()
	p.src = s.port(port)
	if !p.dst.IsValid() {
		p.dst = s.srv.Addr()
	}
	if err := s.wire.send(p.octets()); err != nil {
		s.t.Fatal(err)
	}
}

// ask sends a SYN and waits for the answer.
func (s *stranger) ask(port uint16, syn rawPacket) *layers.TCP {
	s.t.Helper()
	if !syn.dst.IsValid() {
		syn.dst = s.srv.Addr()
	}
	syn.seq, syn.flags = strangerISN, flagSYN
	s.say(port, syn)
	return s.heard.next(s.t, syn.dst, s.port(port))
}

// complete sends the last ACK of a handshake if the answer to the SYN was no
// refusal.
func (s *stranger) complete(port uint16, answer *layers.TCP) {
	s.t.Helper()
	if answer.SYN {
		s.say(port, rawPacket{seq: strangerISN + 1, ack: answer.Seq + 1, flags: flagACK})
	}
}

func (s *stranger) port(i uint16) netip.AddrPort { return netip.AddrPortFrom(s.from, strangerPorts+i) }

// expectAgreement fails the test unless the server holds what counts, and no
// more than the limit.
func (s *stranger) expectAgreement() {
	s.t.Helper()
	if held, counted := len(s.held(s.from)), s.counted(s.from); held != counted || held > bypassLimit {
		s.t.Errorf("the server holds %d, and %d count, the limit is %d: %s", held, counted, bypassLimit, summary(s.statesOf(s.from)))
	}
}

// expectFull waits until the server holds as many as it may, and sees that it
// stays so.
func (s *stranger) expectFull() {
	s.t.Helper()
	if Poll(s.ctx, func() bool { return len(s.held(s.from)) >= bypassLimit }) != nil {
		s.t.Fatalf("the server holds %d, want %d: %s", len(s.held(s.from)), bypassLimit, summary(s.statesOf(s.from)))
	}
	time.Sleep(pause)
	s.expectAgreement()
}
