package integration

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSocketStates(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	for _, f := range Families {
		t.Run(f.String(), func(t *testing.T) {
			srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(f), 80), AcceptOptions{}))
			port := srv.Addr().Port()
			c := must[*net.TCPConn](t, "dial")(l.Client.Dial(ctx, netip.AddrPortFrom(ClientAddr(f, 1), 40000), srv.Addr()))
			s := must[*net.TCPConn](t, "accept")(srv.Conn(ctx, 0))
			expect := func(when string, server, client SocketState) {
				t.Helper()
				var got Sockets
				err := Poll(ctx, func() bool {
					a, _ := l.Server.Sockets(server)
					b, _ := l.Client.Sockets(client)
					got = append(a.Local(port).From(ClientAddr(f, 1)), b.From(ServerAddr(f))...)
					return len(got) == 2
				})
				if err != nil {
					t.Fatalf("%s: %v, want %v and %v", when, got, server, client)
				}
			}
			expect("open", Established, Established)
			_ = c.CloseWrite()
			expect("client closed", CloseWait, FinWait2)
			_ = s.Close()
			expect2 := func(n *Namespace, want int) {
				t.Helper()
				if got := must[Sockets](t, "sockets")(n.Sockets(TimeWait)); len(got) != want {
					t.Errorf("%s: %v, want %d in TIME-WAIT", n.Name, got, want)
				}
			}
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
			expect2(l.Client, 1)
			expect2(l.Server, 0)
			// The port in TIME_WAIT can be dialed from again.
			c = must[*net.TCPConn](t, "dial again")(l.Client.Dial(ctx, netip.AddrPortFrom(ClientAddr(f, 1), 40000), srv.Addr()))
			_ = c.SetLinger(0)
			_ = c.Close()
			_ = must[*net.TCPConn](t, "accept")(srv.Conn(ctx, 1)).Close()
			_ = srv.Close()
		})
	}
}

// TestHalfOpenSockets proves that SYN-RECV and SYN-SENT are listed, which the
// kernel keeps in other tables than whole sockets.
func TestHalfOpenSockets(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	for _, f := range Families {
		ln := must[*net.TCPListener](t, "listen")(l.Server.Listen(netip.AddrPortFrom(ServerAddr(f), 80)))
		defer ln.Close()
		// The client takes its SYN-ACK for a stranger's: nobody has the address.
		if err := l.Client.Do(func() error { return sendSYN(AbsentAddr(f, 0), ServerAddr(f)) }); err != nil {
			t.Fatal(err)
		}
		err := Poll(ctx, func() bool {
			s, _ := l.Server.Sockets(SynRecv)
			return len(s.From(AbsentAddr(f, 0))) == 1
		})
		if err != nil {
			t.Errorf("%v: no SYN-RECV: %v", f, must[Sockets](t, "sockets")(l.Server.Sockets()))
		}
		dialing, hangUp := context.WithCancel(ctx)
		done := make(chan *Holder)
		go func() {
			to := netip.AddrPortFrom(AbsentAddr(f, 1), 80)
			done <- l.Client.Hold(dialing, HoldOptions{To: to, N: 1, Timeout: time.Minute})
		}()
		err = Poll(ctx, func() bool { s, _ := l.Client.Sockets(SynSent); return len(s) == 1 })
		if err != nil {
			t.Errorf("%v: no SYN-SENT: %v", f, err)
		}
		hangUp()
		<-done
	}
}

// sendSYN sends one SYN from any address, port 40000 to 80.
func sendSYN(from, to netip.Addr) error {
	family, dst := unix.AF_INET, unix.Sockaddr(nil)
	if to.Is4() {
		dst = &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		family, dst = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, synPacket(from, to), 0, dst)
}

func synPacket(from, to netip.Addr) []byte {
	tcp := []byte{0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0}
	addrs := append(from.AsSlice(), to.AsSlice()...)
	sum := uint32(6 + len(tcp)) // the rest of the pseudo header
	for _, b := range [][]byte{addrs, tcp} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i])<<8 | uint32(b[i+1])
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	tcp[16], tcp[17] = ^byte(sum>>8), ^byte(sum)
	header := []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0}
	if from.Is6() {
		header = []byte{0x60, 0, 0, 0, 0, 20, 6, 64}
	}
	return slices.Concat(header, addrs, tcp)
}

func TestSocketsAgreeWithSS(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	Require(t, Program("ss"))
	for _, f := range Families {
		srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(f), 0), AcceptOptions{Echo: true}))
		if h := l.Client.Hold(ctx, HoldOptions{To: srv.Addr(), N: 7}); h.Count(Held) != 7 {
			t.Fatal(h)
		}
	}
	var want []string
	out := must[[]byte](t, "ss")(l.Server.Command(ctx, "ss", "-Hatn").Output())
	for line := range strings.Lines(string(out)) {
		w := strings.Fields(line)
		want = append(want, w[0]+" "+w[3])
	}
	var got []string
	for _, s := range must[Sockets](t, "sockets")(l.Server.Sockets()) {
		got = append(got, s.State.String()+" "+s.Local.String())
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nss  %v", got, want)
	}
}
