package integration

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// capture hears all packets of a namespace's links, in both directions.
type capture struct{ fd int }

// openCapture hears the client's.
func openCapture(t *testing.T, l *Lab) *capture {
	t.Helper()
	return captureIn(t, l.Client)
}

func captureIn(t *testing.T, n *Namespace) *capture {
	t.Helper()
	c := &capture{}
	err := n.Do(func() (err error) {
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
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if h := c.hear(); h != nil && h.src == src && h.dst == dst {
			return h.TCP
		}
	}
	t.Fatalf("no segment from %v to %v", src, dst)
	return nil
}

// segment is one of TCP and where it was going.
type segment struct {
	*layers.TCP
	src, dst netip.AddrPort
}

// hear waits for the next segment, and returns nil if there is none in a tenth of
// a second or if a packet is something else.
func (c *capture) hear() *segment {
	s, _ := c.read(0)
	return s
}

// count is how many segments were heard so far from one port to another, of those
// not read yet.
func (c *capture) count(src, dst netip.AddrPort) (n int) {
	for {
		s, err := c.read(unix.MSG_DONTWAIT)
		if err != nil {
			return n // no more
		}
		if s != nil && s.src == src && s.dst == dst {
			n++
		}
	}
}

// read takes the next packet, which is nil if it is no segment.
func (c *capture) read(flags int) (*segment, error) {
	b := make([]byte, 2048)
	n, _, err := unix.Recvfrom(c.fd, b, flags)
	if err != nil || n == 0 {
		return nil, err
	}
	return segmentIn(b[:n]), nil
}

// segmentIn is the segment in an IP packet, if there is one.
func segmentIn(b []byte) *segment {
	first := layers.LayerTypeIPv4
	if b[0]>>4 == 6 {
		first = layers.LayerTypeIPv6
	}
	p := gopacket.NewPacket(b, first, gopacket.Default)
	tcp, ok := p.TransportLayer().(*layers.TCP)
	if !ok {
		return nil
	}
	flow := p.NetworkLayer().NetworkFlow()
	return &segment{tcp, addrPort(flow.Src().Raw(), uint16(tcp.SrcPort)), addrPort(flow.Dst().Raw(), uint16(tcp.DstPort))}
}
