package integration

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// A packet's checksum stays right from lap to lap, and its port changes.
func TestFloodLaps(t *testing.T) {
	for _, f := range Families {
		for _, kind := range []FloodKind{FloodSYN, FloodACK} {
			opts := FloodOptions{Kind: kind, To: netip.AddrPortFrom(ServerAddr(f), 80)}
			fl := newFlooder(&rawWire{}, opts)
			p := fl.packets[7]
			for lap := range 1 << 16 {
				before := binary.BigEndian.Uint16(p[fl.tcp:])
				fl.advance(p[fl.tcp:])
				if after := binary.BigEndian.Uint16(p[fl.tcp:]); after == before || after < floodFirstPort {
					t.Fatalf("lap %d: port %d after %d", lap, after, before)
				}
				if !validSum(p, fl.tcp) {
					t.Fatalf("%v, lap %d: wrong checksum", f, lap)
				}
			}
		}
	}
}

// validSum tells whether the checksum of a packet without extensions is right.
func validSum(p []byte, tcp int) bool {
	addrs := p[12:20]
	if tcp == 40 {
		addrs = p[8:40]
	}
	segment := p[tcp:]
	pseudo := append([]byte{}, addrs...)
	pseudo = append(pseudo, 0, 6, byte(len(segment)>>8), byte(len(segment)))
	return internetSum(append(pseudo, segment...)) == 0
}

// A flood arrives, keeps to its rate and its end, and a server answers it.
func TestFloodArrives(t *testing.T) {
	l := newLab(t, Options{})
	to := netip.AddrPortFrom(ServerAddr(IPv4), 80)
	answerShort(t, l.Server, to)
	near := linkEnd{l.Client, "eth0"}
	before := near.attrs(t).Statistics.RxPackets
	opts := FloodOptions{To: to, Rate: 10_000, Duration: 5 * time.Second, Most: 2000}
	r := must[FloodResult](t, "flood")(l.Flood(t.Context(), opts))
	if r.Sent != opts.Most || r.Rate() > 1.1*float64(opts.Rate) {
		t.Errorf("%+v, %.0f/s", r, r.Rate())
	}
	err := Poll(testContext(t), func() bool { return near.attrs(t).Statistics.RxPackets-before >= uint64(opts.Most) })
	if err != nil {
		t.Errorf("%d of %d answered", near.attrs(t).Statistics.RxPackets-before, opts.Most)
	}
}
