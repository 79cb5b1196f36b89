package integration

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// capture hears all packets of the client's links, in both directions.
type capture struct{ fd int }

func openCapture(t *testing.T, l *Lab) *capture {
	t.Helper()
	c := &capture{}
	err := l.Client.Do(func() (err error) {
		const all = unix.ETH_P_ALL << 8 // in network order
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		return err
	})
	if err != nil {
		t.Fatalf("open a packet socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(c.fd) })
	wait := unix.Timeval{Usec: 100_000}
	if err := unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	return c
}

// next waits for the next TCP segment from one port to another.
func (c *capture) next(t *testing.T, src, dst netip.AddrPort) *layers.TCP {
	t.Helper()
	b := make([]byte, 2048)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		n, _, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			continue // nothing in a tenth of a second
		}
		if tcp := segmentOf(b[:n], src, dst); tcp != nil {
			return tcp
		}
	}
	t.Fatalf("no segment from %v to %v", src, dst)
	return nil
}

// segmentOf is the TCP segment in an IP packet, or nil if it is another's.
func segmentOf(b []byte, src, dst netip.AddrPort) *layers.TCP {
	first := layers.LayerTypeIPv4
	if src.Addr().Is6() {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.Default)
	tcp, ok := p.TransportLayer().(*layers.TCP)
	if !ok {
		return nil
	}
	flow := p.NetworkLayer().NetworkFlow()
	if addrPort(flow.Src().Raw(), uint16(tcp.SrcPort)) != src || addrPort(flow.Dst().Raw(), uint16(tcp.DstPort)) != dst {
		return nil
	}
	return tcp
}
