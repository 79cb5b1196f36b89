package integration

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"nfqfw/internal/mmsg"
)

// FloodKind is what a flood consists of.
type FloodKind uint8

// The kinds of a flood.
const (
	FloodSYN FloodKind = iota // SYNs with the options of a Linux client
	FloodACK                  // ACKs of handshakes that never were
)

// FloodOptions describe a flood of packets from the client's link, in the names of
// sources that do not exist.
type FloodOptions struct {
	Kind     FloodKind
	To       netip.AddrPort
	Rate     int           // packets a second; 0: as many as there is time for
	Duration time.Duration // ends it
	Most     int           // packets; ends it too
}

// FloodResult is what a flood came to.
type FloodResult struct {
	Sent    int
	Elapsed time.Duration
}

// Rate is how many packets a second were sent.
func (r FloodResult) Rate() float64 { return float64(r.Sent) / r.Elapsed.Seconds() }

const (
	// floodBatch is how many packets go to the kernel in one call.
	floodBatch = 64
	// floodPause is how long a paced flood sleeps when it is ahead of its time.
	floodPause = 200 * time.Microsecond
	// floodBurst is how much of its time a paced flood may make up for at once.
	floodBurst = 2 * time.Millisecond
	// floodFirstPort is the source port of the first lap over the sources.
	floodFirstPort = 1024
)

// synOptions are those of a Linux client: MSS, SACK, timestamps, window scale.
var synOptions = []byte{2, 4, 5, 180, 4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0, 1, 3, 3, 7}

// Flood sends packets until the duration is over, or the most is sent, or ctx ends,
// which is no error. No two packets are of the same connection before each source has
// used every port.
func (l *Lab) Flood(ctx context.Context, opts FloodOptions) (FloodResult, error) {
	wire, err := openRaw(linkEnd{l.Client, "eth0"}, linkEnd{l.Gateway, "eth0"}, familyOf(opts.To.Addr()))
	if err != nil {
		return FloodResult{}, fmt.Errorf("flood: %w", err)
	}
	defer wire.close()
	f := newFlooder(wire, opts)
	start := time.Now()
	err = f.run(ctx, start)
	return FloodResult{f.sent, time.Since(start)}, err
}

// flooder has a packet of each source ready, and gives them another port on each lap.
type flooder struct {
	opts    FloodOptions
	fd      int
	to      unix.RawSockaddrLinklayer
	packets [][]byte
	tcp     int // where a packet's TCP header begins
	next    int
	sent    int
	skipped int // packets that a paced flood had no time for
	headers [floodBatch]mmsg.Header
	vectors [floodBatch]unix.Iovec
}

func newFlooder(wire *rawWire, opts FloodOptions) *flooder {
	f := &flooder{opts: opts, fd: wire.fd, tcp: 20}
	if opts.To.Addr().Is6() {
		f.tcp = 40
	}
	f.to = unix.RawSockaddrLinklayer{
		Family: unix.AF_PACKET, Protocol: wire.to.Protocol, Ifindex: int32(wire.to.Ifindex), Halen: wire.to.Halen, Addr: wire.to.Addr,
	}
	for i := range f.headers {
		h := &f.headers[i].Msghdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&f.to)), unix.SizeofSockaddrLinklayer
		h.Iov = &f.vectors[i]
		h.SetIovlen(1)
	}
	for i := range benchRange {
		f.packets = append(f.packets, opts.packet(i))
	}
	return f
}

// packet is that of the i-th source.
func (o *FloodOptions) packet(i int) []byte {
	p := rawPacket{
		src: netip.AddrPortFrom(AbsentAddr(familyOf(o.To.Addr()), i), floodFirstPort), dst: o.To,
		seq: rand.Uint32(), flags: flagSYN, options: synOptions,
	}
	if o.Kind == FloodACK {
		p.flags, p.ack, p.options = flagACK, rand.Uint32(), nil
	}
	return p.octets()
}

func (f *flooder) run(ctx context.Context, start time.Time) error {
	for ctx.Err() == nil {
		elapsed := time.Since(start)
		if elapsed >= f.opts.Duration || f.sent >= f.opts.Most {
			return nil
		}
		n := min(floodBatch, f.opts.Most-f.sent)
		if f.opts.Rate > 0 {
			n = min(n, f.due(elapsed))
		}
		if n <= 0 {
			time.Sleep(floodPause)
			continue
		}
		if err := f.send(n); err != nil {
			return err
		}
	}
	return nil
}

// due is how many packets a paced flood is behind. What it could not send in time it does
// not make up for: nor would a link.
func (f *flooder) due(elapsed time.Duration) int {
	rate := float64(f.opts.Rate)
	late := elapsed.Seconds()*rate - float64(f.sent+f.skipped)
	if most := floodBurst.Seconds() * rate; late > most {
		f.skipped += int(late - most)
		late = most
	}
	return int(late)
}

// send gives the kernel the next n packets.
func (f *flooder) send(n int) error {
	for i := range n {
		p := f.packets[f.next]
		f.vectors[i].Base = &p[0]
		f.vectors[i].SetLen(len(p))
		f.advance(p[f.tcp:])
	}
	sent, errno := mmsg.SendAll(f.fd, f.headers[:n])
	switch errno {
	case 0:
		f.sent += sent
	case unix.ENOBUFS, unix.EINTR, unix.EAGAIN: // the link is full for a moment
	default:
		return fmt.Errorf("flood: send: %w", errno)
	}
	return nil
}

// advance gives the packet that is sent the port after the one of the lap before, and
// corrects the checksum by the difference (RFC 1624).
func (f *flooder) advance(segment []byte) {
	old := binary.BigEndian.Uint16(segment)
	port := old + 1
	if port < floodFirstPort {
		port = floodFirstPort
	}
	binary.BigEndian.PutUint16(segment, port)
	sum := uint32(^binary.BigEndian.Uint16(segment[16:])) + uint32(^old) + uint32(port)
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(segment[16:], ^uint16(sum))
	f.next = (f.next + 1) % len(f.packets)
}
