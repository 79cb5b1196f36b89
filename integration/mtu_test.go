package integration

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// The SYN proxy tells each side no larger segments than fit the interface they
// will leave by, without waiting for anybody's complaint.
func TestSmallInterfaces(t *testing.T) {
	under(t, "synproxy", places[:1], Families, func(t *testing.T, policy string, at place, f Family) {
		l := newLab(t, Options{})
		for device, mtu := range map[string]string{"eth0": "1400", "eth1": "1300"} {
			if out, err := l.Gateway.Command(t.Context(), "ip", "link", "set", device, "mtu", mtu).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		g := &guarded{t: t, ctx: testContext(t), lab: l, at: at, family: f, fw: startFirewall(t, l, fmt.Sprintf(webRule, policy, 10))}
		g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), AcceptOptions{}))
		for i := range 2 { // the server is not known yet, and then it is
			p := g.open(g.source(i))
			headers := map[Family]int{IPv4: 40, IPv6: 60}[f]
			if n := segmentSize(t, p.server); n > 1400-headers {
				t.Errorf("the server sends segments of %d octets by an interface of 1400", n)
			}
			if n := segmentSize(t, p.client); n > 1300-headers {
				t.Errorf("the client sends segments of %d octets by an interface of 1300", n)
			}
		}
	})
}

// segmentSize is how much a socket would send at a time, in octets.
func segmentSize(t *testing.T, c *net.TCPConn) int {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	_ = raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG) })
	if err != nil {
		t.Fatal(err)
	}
	return n
}
