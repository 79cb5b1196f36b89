package wire

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"nfqfw/internal/packet"
)

// unhex reads a fixture: hex digits, and comments from # to the end of a line.
func unhex(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tuple(src, dst string) packet.Tuple {
	return packet.TupleFrom(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
}

// A SYN of a Linux client.
const synIPv4 = `
	45 00 003c      # version 4, 5 words, TOS 0, total length 60
	0000 4000       # id 0, DF
	40 06 4e7d      # TTL 64, TCP, header checksum
	c0000201        # from 192.0.2.1
	c633640a        # to 198.51.100.10
	c738 0050       # ports 51000 > 80
	01020304        # sequence number
	00000000        # acknowledgment number
	a0 02 faf0      # 10 words, SYN, window 64240
	94dd 0000       # checksum, no urgent pointer
	02 04 05b4      # MSS 1460
	04 02           # SACK permitted
	08 0a 00000064 00000000 # timestamps 100, 0
	01 03 03 07     # NOP, window scale 7
`

// A data segment behind hop-by-hop and destination options, of 100000 octets
// (BIG TCP): the payload length of IPv6 is 0.
const bigIPv6 = `
	60 000000       # version 6
	0000 00 40      # payload length 0, hop-by-hop next, hop limit 64
	20010db8000000000000000000000001 # from
	20010db8000000000000000000000002 # to
	3c 00 01 04 00000000 # destination options next, 8 octets, PadN
	06 00 01 04 00000000 # TCP next, 8 octets, PadN
	0050 c738       # ports 80 > 51000
	fffffff0        # sequence number
	01020305        # acknowledgment number
	80 18 0080      # 8 words, PSH ACK, window 128
	0000 0000       # checksum not filled in
	01 01 08 0a 000000c8 00000064 # NOP, NOP, timestamps 200, 100
	68656c6c6f      # the beginning of the payload
`

func TestDecode(t *testing.T) {
	tests := []struct {
		name  string
		hex   string
		total int
		want  packet.Packet
	}{
		{"syn", synIPv4, 0, packet.Packet{
			Tuple: tuple("192.0.2.1:51000", "198.51.100.10:80"),
			Seq:   0x01020304, Window: 64240, Flags: packet.SYN,
			Options: packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true, TSVal: 100},
		}},
		{"big tcp", bigIPv6, 100_000, packet.Packet{
			Tuple: tuple("[2001:db8::1]:80", "[2001:db8::2]:51000"),
			Seq:   0xfffffff0, Ack: 0x01020305, Window: 128, Flags: packet.ACK | packet.PSH,
			PayloadLen: 100_000 - 40 - 16 - 32,
			Options:    packet.Options{HasTimestamp: true, TSVal: 200, TSEcr: 100},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := packet.Packet{PayloadLen: 7, Ack: 9, Options: packet.Options{MSS: 1, SACKPermitted: true}}
			got.InDev, got.InName, got.Conn = 3, "eth0", packet.ConnNew
			want := tt.want
			want.InDev, want.InName, want.Conn = 3, "eth0", packet.ConnNew
			if r := NewDecoder().Decode(unhex(t, tt.hex), tt.total, &got); r != packet.ReasonMatch {
				t.Fatalf("reason %v", r)
			}
			if got != want {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// edit is a fixture with some octets replaced.
func edit(t testing.TB, fixture string, at int, octets ...byte) []byte {
	t.Helper()
	b := unhex(t, fixture)
	copy(b[at:], octets)
	return b
}

func TestDecodeRefuses(t *testing.T) {
	syn, big := unhex(t, synIPv4), unhex(t, bigIPv6)
	tests := []struct {
		name  string
		b     []byte
		total int
		want  packet.Reason
	}{
		{"nothing", nil, 0, packet.ReasonShort},
		{"version 5", edit(t, synIPv4, 0, 0x55), 0, packet.ReasonNotTCP},
		{"half an IPv4 header", syn[:19], 0, packet.ReasonShort},
		{"IPv4 header of 4 words", edit(t, synIPv4, 0, 0x44), 0, packet.ReasonShort},
		{"IPv4 header longer than packet", edit(t, synIPv4, 2, 0, 19), 0, packet.ReasonShort},
		{"IPv4 packet shorter than its length", edit(t, synIPv4, 2, 0, 61), 0, packet.ReasonShort},
		{"IPv4 UDP", edit(t, synIPv4, 9, 17), 0, packet.ReasonNotTCP},
		{"IPv4 first fragment", edit(t, synIPv4, 6, 0x20), 0, packet.ReasonFragment},
		{"IPv4 later fragment", edit(t, synIPv4, 6, 0, 1), 0, packet.ReasonFragment},
		{"IPv4 option past header", edit(t, synIPv4, 0, 0x46), 0, packet.ReasonIPOption},
		{"half a TCP header", edit(t, synIPv4, 2, 0, 39), 0, packet.ReasonShort},
		{"TCP header not captured", syn[:36], 60, packet.ReasonShort},
		{"TCP options not captured", syn[:50], 60, packet.ReasonShort},
		{"data offset 4", edit(t, synIPv4, 32, 0x40), 0, packet.ReasonBadOffset},
		{"data offset past packet", edit(t, synIPv4, 32, 0xb0), 0, packet.ReasonBadOffset},
		{"SYN FIN", edit(t, synIPv4, 33, 0x03), 0, packet.ReasonNormalize},
		{"SYN RST", edit(t, synIPv4, 33, 0x06), 0, packet.ReasonNormalize},
		{"no flags", edit(t, synIPv4, 33, 0), 0, packet.ReasonNormalize},
		{"FIN alone", edit(t, synIPv4, 33, 0x01), 0, packet.ReasonNormalize},
		{"xmas", edit(t, synIPv4, 33, 0x29), 0, packet.ReasonNormalize},
		{"option of length 1", edit(t, synIPv4, 41, 1), 0, packet.ReasonTCPOption},
		{"option past header", edit(t, synIPv4, 58, 4), 0, packet.ReasonTCPOption},
		{"option without length", edit(t, synIPv4, 56, 1, 1, 1, 3), 0, packet.ReasonTCPOption},
		{"half an IPv6 header", big[:39], 0, packet.ReasonShort},
		{"IPv6 packet shorter than its length", edit(t, bigIPv6, 4, 1), 0, packet.ReasonShort},
		{"IPv6 UDP", edit(t, bigIPv6, 48, 17), 100_000, packet.ReasonNotTCP},
		{"IPv6 hop-by-hop not first", edit(t, bigIPv6, 40, 0), 100_000, packet.ReasonNotTCP},
		{"IPv6 chain past captured", edit(t, bigIPv6, 49, 200), 100_000, packet.ReasonIPOption},
		{"IPv6 chain cut", big[:50], 100_000, packet.ReasonIPOption},
		{"IPv6 fragment", edit(t, bigIPv6, 40, 44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1), 100_000, packet.ReasonFragment},
		{"IPv6 mapped source", edit(t, bigIPv6, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff), 100_000, packet.ReasonNormalize},
		{"IPv6 endless chain", append(edit(t, bigIPv6, 6, 60)[:40], repeat(9, 60, 0, 1, 4, 0, 0, 0, 0)...), 0, packet.ReasonIPOption},
	}
	d := NewDecoder()
	var p packet.Packet
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := d.Decode(tt.b, tt.total, &p); got != tt.want {
				t.Errorf("reason %v, want %v", got, tt.want)
			}
			if n := testing.AllocsPerRun(100, func() { d.Decode(tt.b, tt.total, &p) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

func repeat(n int, octets ...byte) []byte {
	var b []byte
	for range n {
		b = append(b, octets...)
	}
	return b
}

func TestDecodeAtomicFragment(t *testing.T) {
	b := edit(t, bigIPv6, 40, 44)                      // hop-by-hop, then a fragment header
	copy(b[48:], []byte{6, 0, 0, 6, 0xde, 0xad, 0, 1}) // no offset, reserved bits set, last
	var p packet.Packet
	if r := NewDecoder().Decode(b, 100_000, &p); r != packet.ReasonMatch {
		t.Errorf("reason %v", r)
	}
}

// TestDecodeOptions has each option list behind a header with the given flags.
func TestDecodeOptions(t *testing.T) {
	tests := []struct {
		name  string
		flags packet.Flags
		hex   string
		want  packet.Options
	}{
		{"window scale clamped", packet.SYN, "03 03 ff 00", packet.Options{HasWScale: true, WScale: 14}},
		{"last one wins", packet.SYN, "02 04 0200 02 04 0300", packet.Options{MSS: 0x300}},
		{"MSS 0 ignored", packet.SYN, "02 04 0200 02 04 0000", packet.Options{MSS: 0x200}},
		{"wrong lengths ignored", packet.SYN, "02 03 02 03 04 0101 04 03 00 00 00", packet.Options{}},
		{"nothing after the end", packet.SYN, "00 04 02 00", packet.Options{}},
		{"handshake options on an ACK ignored", packet.ACK, "02 04 0200 03 03 07 04 02 00 00 00", packet.Options{}},
		{"40 NOPs", packet.SYN, strings.Repeat("01", 40), packet.Options{}},
		{"Fast Open, a request", packet.SYN, "22 02 01 01", packet.Options{FastOpen: true}},
		{"Fast Open, a cookie", packet.SYN, "02 04 05b4 22 0a 0123456789abcdef 01 01", packet.Options{MSS: 1460, FastOpen: true}},
		{"Fast Open, a cookie of an odd length", packet.SYN, "22 03 aa 01", packet.Options{FastOpen: true}},
		{"Fast Open, a cookie of all the room", packet.SYN, "22 28" + strings.Repeat("aa", 38), packet.Options{FastOpen: true}},
		{"experimental Fast Open, a request", packet.SYN, "fe 04 f989", packet.Options{FastOpen: true}},
		{"experimental Fast Open, a cookie", packet.SYN, "fe 0c f989 0123456789abcdef", packet.Options{FastOpen: true}},
		{"another experiment", packet.SYN, "fe 04 e2d4", packet.Options{}},
		{"half an experiment", packet.SYN, "fe 03 f9 01 fe 02 01 01", packet.Options{}},
		{"Fast Open on an ACK ignored", packet.ACK, "22 02 fe 04 f989 01 01", packet.Options{}},
		{"many", packet.SYN, "0402 0402 0402 0402 0402 0402 fd04 0000", packet.Options{SACKPermitted: true}},
	}
	d := NewDecoder()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := packetWith(t, tt.flags, unhex(t, tt.hex))
			var p packet.Packet
			if r := d.Decode(b, 0, &p); r != packet.ReasonMatch {
				t.Fatalf("reason %v", r)
			}
			if p.Options != tt.want {
				t.Errorf("got  %+v\nwant %+v", p.Options, tt.want)
			}
			if n := testing.AllocsPerRun(100, func() { d.Decode(b, 0, &p) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// packetWith is an IPv4 packet with the given flags and raw TCP options.
func packetWith(t testing.TB, flags packet.Flags, options []byte) []byte {
	t.Helper()
	b := append(unhex(t, synIPv4)[:40], options...)
	b[3] = byte(len(b))
	b[32] = byte(tcpHeaderLen+len(options)) / 4 << 4
	b[33] = byte(flags)
	return b
}

func TestVerify(t *testing.T) {
	d := NewDecoder()
	var p packet.Packet
	good := unhex(t, synIPv4)
	long := append(unhex(t, synIPv4), 1, 2, 3)
	long[3] = byte(len(long))
	tests := []struct {
		name  string
		b     []byte
		total int
		want  packet.Reason
	}{
		{"good", good, 0, packet.ReasonMatch},
		{"wrong", edit(t, synIPv4, 25, 1), 0, packet.ReasonProtoCksum},
		{"not all captured", long[:62], 63, packet.ReasonMatch},
		{"odd payload, wrong", long, 0, packet.ReasonProtoCksum},
		{"padding after the packet", append(good[:60:60], 1, 2, 3), 0, packet.ReasonMatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := d.Decode(tt.b, tt.total, &p); r != packet.ReasonMatch {
				t.Fatalf("reason %v", r)
			}
			if got := d.Verify(); got != tt.want {
				t.Errorf("Verify %v, want %v", got, tt.want)
			}
		})
	}
	d.Decode(nil, 0, &p)
	if got := d.Verify(); got != packet.ReasonMatch {
		t.Errorf("Verify after a refused packet: %v", got)
	}
}
