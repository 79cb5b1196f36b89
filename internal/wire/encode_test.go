package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/internal/seqnum"
)

func segments() []packet.Segment {
	full := packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true, TSVal: 100}
	v4, v6 := tuple("192.0.2.1:51000", "198.51.100.10:80"), tuple("[2001:db8::1]:80", "[2001:db8::2]:51000")
	return []packet.Segment{
		{Tuple: v4, Seq: 0x01020304, Window: 64240, Flags: packet.SYN, Options: full},
		{Tuple: v6, Seq: 7, Ack: 8, Window: 1, Flags: packet.SYN | packet.ACK, Options: full},
		{Tuple: v4, Flags: packet.SYN, Options: packet.Options{SACKPermitted: true}},
		{Tuple: v4, Flags: packet.SYN, Options: packet.Options{HasWScale: true, WScale: 3}},
		{Tuple: v6, Flags: packet.ACK, Options: packet.Options{HasTimestamp: true, TSVal: 1, TSEcr: 2}},
		{Tuple: v4, Seq: 0xffffffff, Flags: packet.RST},
		{Tuple: v6, Flags: packet.RST | packet.ACK, Ack: 0xffffffff},
		{Tuple: v4, Flags: packet.FIN | packet.ACK | packet.PSH | packet.URG | packet.ECE | packet.CWR, Window: 0xffff},
	}
}

func TestAppendIsWhatLinuxSends(t *testing.T) {
	got := Append([]byte("before"), &segments()[0])
	if want := unhex(t, synIPv4); !bytes.Equal(got[6:], want) || string(got[:6]) != "before" {
		t.Errorf("got  %x\nwant %x", got[6:], want)
	}
}

func TestAppendWritesNoFastOpen(t *testing.T) {
	s := segments()[0]
	want := Append(nil, &s)
	s.Options.FastOpen = true
	if got := Append(nil, &s); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// reference builds the same packet with gopacket, options and all.
func reference(t testing.TB, s *packet.Segment) []byte {
	t.Helper()
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(s.SrcPort), DstPort: layers.TCPPort(s.DstPort),
		Seq: uint32(s.Seq), Ack: uint32(s.Ack), Window: s.Window,
		FIN: s.Flags.Has(packet.FIN), SYN: s.Flags.Has(packet.SYN), RST: s.Flags.Has(packet.RST),
		PSH: s.Flags.Has(packet.PSH), ACK: s.Flags.Has(packet.ACK), URG: s.Flags.Has(packet.URG),
		ECE: s.Flags.Has(packet.ECE), CWR: s.Flags.Has(packet.CWR), Options: referenceOptions(s),
	}
	var ip gopacket.SerializableLayer
	src, dst := s.Src.Netip().AsSlice(), s.Dst.Netip().AsSlice()
	if s.Is4() {
		h := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: src, DstIP: dst, Flags: layers.IPv4DontFragment}
		ip = h
		_ = tcp.SetNetworkLayerForChecksum(h)
	} else {
		h := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: src, DstIP: dst}
		ip = h
		_ = tcp.SetNetworkLayerForChecksum(h)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func referenceOptions(s *packet.Segment) []layers.TCPOption {
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop}
	var list []layers.TCPOption
	o, syn := s.Options, s.Flags.Has(packet.SYN)
	if syn && o.MSS != 0 {
		list = append(list, layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionData: binary.BigEndian.AppendUint16(nil, o.MSS)})
	}
	sack := layers.TCPOption{OptionType: layers.TCPOptionKindSACKPermitted}
	if o.HasTimestamp {
		if syn && o.SACKPermitted {
			list = append(list, sack)
		} else {
			list = append(list, nop, nop)
		}
		data := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, o.TSVal), o.TSEcr)
		list = append(list, layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionData: data})
	} else if syn && o.SACKPermitted {
		list = append(list, nop, nop, sack)
	}
	if syn && o.HasWScale {
		list = append(list, nop, layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionData: []byte{o.WScale}})
	}
	return list
}

// randomSegment is one that a decoder can give back as it was.
func randomSegment(r *rand.Rand) packet.Segment {
	s := packet.Segment{Seq: seqnum.Value(r.Uint32()), Ack: seqnum.Value(r.Uint32()), Window: uint16(r.Uint32())}
	s.Tuple = packet.Tuple{SrcPort: uint16(r.Uint32()), DstPort: uint16(r.Uint32())}
	for i := range s.Src {
		s.Src[i], s.Dst[i] = byte(r.Uint32()), byte(r.Uint32())
	}
	if r.IntN(2) == 0 {
		copy(s.Src[:], make([]byte, 10))
		s.Src[10], s.Src[11] = 0xff, 0xff
		copy(s.Dst[:12], s.Src[:12])
	}
	for s.Flags = packet.Flags(r.Uint32()); !normal(s.Flags); {
		s.Flags = packet.Flags(r.Uint32())
	}
	bit := func() bool { return r.IntN(2) == 0 }
	if s.Flags.Has(packet.SYN) {
		s.Options = packet.Options{MSS: uint16(r.Uint32()), SACKPermitted: bit(), HasWScale: bit()}
		if s.Options.HasWScale {
			s.Options.WScale = uint8(r.IntN(packet.MaxWScale + 1))
		}
	}
	if s.Options.HasTimestamp = bit(); s.Options.HasTimestamp {
		s.Options.TSVal, s.Options.TSEcr = r.Uint32(), r.Uint32()
	}
	return s
}

// checkSegment encodes s, compares with gopacket, and decodes it again.
func checkSegment(t *testing.T, d *Decoder, s *packet.Segment) {
	t.Helper()
	b := Append(nil, s)
	if want := reference(t, s); !bytes.Equal(b, want) {
		t.Fatalf("%+v\ngot  %x\nwant %x", *s, b, want)
	}
	if len(b) > MaxSegmentLen {
		t.Fatalf("%d octets", len(b))
	}
	var p packet.Packet
	if r := d.Decode(b, 0, &p); r != packet.ReasonMatch {
		t.Fatalf("%+v: reason %v", *s, r)
	}
	if got := segmentOf(&p); got != *s || p.PayloadLen != 0 {
		t.Fatalf("got  %+v\nwant %+v", got, *s)
	}
	if r := d.Verify(); r != packet.ReasonMatch {
		t.Fatalf("%+v: %v", *s, r)
	}
}

func segmentOf(p *packet.Packet) packet.Segment {
	return packet.Segment{Tuple: p.Tuple, Seq: p.Seq, Ack: p.Ack, Window: p.Window, Flags: p.Flags, Options: p.Options}
}

func TestRoundTrip(t *testing.T) {
	d := NewDecoder()
	for _, s := range segments() {
		checkSegment(t, d, &s)
	}
	r := seedtest.Rand(t)
	for range 5000 {
		s := randomSegment(r)
		checkSegment(t, d, &s)
	}
}

func TestAppendAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, MaxSegmentLen)
	for _, s := range segments() {
		if n := testing.AllocsPerRun(100, func() { Append(buf, &s) }); n != 0 {
			t.Errorf("%v: %v allocations", s.Flags, n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(unhex(f, synIPv4), 0)
	f.Add(unhex(f, bigIPv6), 100_000)
	f.Add(edit(f, bigIPv6, 40, 44), 100_000)
	f.Add(packetWith(f, packet.SYN, repeat(10, 1, 4, 2, 0)), 0)
	f.Add(packetWith(f, packet.SYN, []byte{34, 2, 254, 4, 0xf9, 0x89, 1, 1}), 0)
	for _, s := range segments() {
		f.Add(Append(nil, &s), 0)
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, b []byte, total int) {
		var p packet.Packet
		whole := max(total, len(b))
		if r := d.Decode(b, total, &p); r != packet.ReasonMatch {
			if int(r) >= packet.ReasonCount {
				t.Fatalf("reason %d", r)
			}
			return
		}
		d.Verify()
		if int(p.PayloadLen) > whole-ipv4HeaderLen-tcpHeaderLen {
			t.Fatalf("payload %d of %d octets", p.PayloadLen, whole)
		}
		s := segmentOf(&p)
		s.Options.FastOpen = false // never written
		checkSegment(t, d, &s)
	})
}

func BenchmarkDecode(b *testing.B) {
	v4, v6 := tuple("192.0.2.1:51000", "198.51.100.10:80"), tuple("[2001:db8::1]:51000", "[2001:db8::2]:80")
	offer := packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true}
	stamps := packet.Options{HasTimestamp: true}
	octets := func(t packet.Tuple, f packet.Flags, o packet.Options) []byte {
		return Append(nil, &packet.Segment{Tuple: t, Seq: 1, Ack: 2, Window: 502, Flags: f, Options: o})
	}
	for _, bb := range []struct {
		name   string
		octets []byte
		total  int
	}{
		{"SYN-IPv4", octets(v4, packet.SYN, offer), 0},
		{"SYN-IPv6", octets(v6, packet.SYN, offer), 0},
		{"ACK-IPv4", octets(v4, packet.ACK, stamps), 0},
		{"FIN-IPv4", octets(v4, packet.FIN|packet.ACK, stamps), 0},
		{"GSO-IPv6", unhex(b, bigIPv6), 100_000}, // and with extension headers
	} {
		b.Run(bb.name, func(b *testing.B) {
			d := NewDecoder()
			var p packet.Packet
			b.ReportAllocs()
			for b.Loop() {
				if d.Decode(bb.octets, bb.total, &p) != packet.ReasonMatch {
					b.Fatal("not decoded")
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	d := NewDecoder()
	var p packet.Packet
	d.Decode(unhex(b, synIPv4), 0, &p)
	for b.Loop() {
		d.Verify()
	}
}

func BenchmarkAppend(b *testing.B) {
	list := segments()
	for name, s := range map[string]packet.Segment{"SYN-IPv4": list[0], "SYN+ACK-IPv6": list[1], "RST-IPv4": list[5]} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, MaxSegmentLen)
			b.ReportAllocs()
			for b.Loop() {
				Append(buf, &s)
			}
		})
	}
}
