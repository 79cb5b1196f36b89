package nfq

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
)

// BenchmarkFlood measures how many packets a second are judged and dropped
// while another thread sends as fast as it can over loopback.
func BenchmarkFlood(b *testing.B) {
	netnstest.New(b)
	client, _ := udpPair(b)
	netnstest.Run(b, "iptables -w -t raw -A PREROUTING -i lo -p udp -j NFQUEUE --queue-num 7")
	q := start(b, Default(), judge{handle: func(m *Message) { m.Answer(packet.Drop, 0) }})
	raw, err := client.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	octets := make([]byte, 32)
	b.ReportAllocs()
	b.ResetTimer()
	_ = raw.Control(func(fd uintptr) {
		for range b.N {
			_, _ = unix.Write(int(fd), octets)
		}
	})
	for {
		before := q.Counters().Packets
		time.Sleep(2 * time.Millisecond)
		if q.Counters().Packets == before {
			break
		}
	}
	b.StopTimer()
	c := q.Counters()
	s, _, _ := Stats(7)
	b.ReportMetric(float64(c.Packets)/b.Elapsed().Seconds(), "judged/s")
	b.ReportMetric(float64(c.Packets)/float64(c.Batches), "a-batch")
	b.ReportMetric(float64(s.QueueDropped+s.QueueUserDropped)/float64(b.N), "lost")
}

// BenchmarkRoundTrip measures what the queue adds to one packet at a time: the
// time of a wake-up.
func BenchmarkRoundTrip(b *testing.B) {
	for _, queued := range []bool{false, true} {
		name := map[bool]string{false: "direct", true: "queued"}[queued]
		b.Run(name, func(b *testing.B) {
			netnstest.New(b)
			client, server := udpPair(b)
			if queued {
				netnstest.Run(b, queueUDP)
				start(b, Default(), judge{handle: pass})
			}
			out, in := blocking(b, client), blocking(b, server)
			octets := make([]byte, 4)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = unix.Write(out, octets)
				if _, err := unix.Read(in, octets); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// blocking is a descriptor of c that Go's poller has no part in, so that only
// the queue's own waiting is measured. A read gives up after a second.
func blocking(b *testing.B, c *net.UDPConn) int {
	b.Helper()
	f, err := c.File()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	fd := int(f.Fd()) // sets it blocking
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		b.Fatal(err)
	}
	return fd
}
