package packet

import (
	"net/netip"
	"testing"

	"nfqfw/internal/seqnum"
)

func tuple(src, dst string) Tuple {
	return TupleFrom(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
}

// Ends that differ in one thing only, and ends that are the same.
var tuples = []Tuple{
	tuple("198.51.100.7:50000", "192.0.2.10:80"),
	tuple("192.0.2.10:50000", "192.0.2.10:80"),
	tuple("198.51.100.7:80", "192.0.2.10:80"),
	tuple("192.0.2.10:80", "192.0.2.10:80"),
	tuple("[2001:db8:1::7]:50000", "[2001:db8::10]:443"),
	tuple("[2001:db8::10]:50000", "[2001:db8::10]:443"),
}

// Else a server's answer would find no state, or another's.
func TestTupleAnswers(t *testing.T) {
	for _, c := range tuples {
		reverse := c.Reverse()
		for _, o := range tuples {
			if c.Answers(&o) != (o == reverse) {
				t.Errorf("%v answers %v: %v", c, o, c.Answers(&o))
			}
		}
		if !c.Answers(&reverse) {
			t.Errorf("%v is not answered by its reverse", c)
		}
	}
}

func TestReverse(t *testing.T) {
	want := tuple("192.0.2.10:80", "198.51.100.7:50000")
	if got := tuple("198.51.100.7:50000", "192.0.2.10:80").Reverse(); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, c := range tuples {
		if c.Reverse().Reverse() != c {
			t.Errorf("%v: reversed twice it is %v", c, c.Reverse().Reverse())
		}
	}
}

func TestTupleString(t *testing.T) {
	for _, tt := range []struct {
		tuple Tuple
		want  string
		is4   bool
	}{
		{tuple("198.51.100.7:50000", "192.0.2.10:80"), "198.51.100.7:50000 > 192.0.2.10:80", true},
		{tuple("[::ffff:198.51.100.7]:50000", "192.0.2.10:80"), "198.51.100.7:50000 > 192.0.2.10:80", true},
		{tuple("[2001:db8:1::7]:50000", "[2001:db8::10]:443"), "[2001:db8:1::7]:50000 > [2001:db8::10]:443", false},
	} {
		if got := tt.tuple.String(); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		if tt.tuple.Is4() != tt.is4 {
			t.Errorf("%s: Is4 = %v", tt.want, !tt.is4)
		}
	}
}

// A firewall must treat both spellings of an IPv4 address alike.
func TestAddr(t *testing.T) {
	plain := AddrFrom(netip.MustParseAddr("192.0.2.10"))
	if mapped := AddrFrom(netip.MustParseAddr("::ffff:192.0.2.10")); mapped != plain {
		t.Errorf("mapped is %v, plain %v", mapped, plain)
	}
	for _, text := range []string{"192.0.2.10", "0.0.0.0", "2001:db8::10", "::"} {
		a := netip.MustParseAddr(text)
		if got := AddrFrom(a); got.Netip() != a || got.Is4() != a.Is4() {
			t.Errorf("%s comes back as %s", text, got.Netip())
		}
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		flags Flags
		want  string
	}{
		{0, ""}, {FIN, "F"}, {SYN, "S"}, {RST, "R"}, {PSH, "P"}, {ACK, "A"}, {URG, "U"}, {ECE, "E"}, {CWR, "W"},
		{SYN | ACK, "SA"}, {FIN | ACK, "FA"}, {0xff, "FSRPAUEW"},
	} {
		if got := tt.flags.String(); got != tt.want {
			t.Errorf("flags %#02x: %q, want %q", uint8(tt.flags), got, tt.want)
		}
	}
	both := SYN | ACK
	if !both.Has(SYN) || !both.Has(both) || both.Has(SYN|FIN) {
		t.Error("Has asks for all bits")
	}
	if !both.Any(SYN|FIN) || both.Any(FIN|RST) || both.Any(0) {
		t.Error("Any asks for one bit")
	}
}

func TestIsSYN(t *testing.T) {
	for _, tt := range []struct {
		flags       Flags
		syn, synACK bool
	}{
		{SYN, true, false},
		{SYN | ECE | CWR, true, false}, // asks for ECN (RFC 3168 section 6.1.1)
		{SYN | PSH | URG, true, false},
		{SYN | ACK, false, true},
		{SYN | ACK | ECE, false, true},
		{SYN | FIN, false, false},
		{SYN | RST, false, false},
		{SYN | ACK | FIN, false, false},
		{SYN | ACK | RST, false, false},
		{ACK, false, false},
		{0, false, false},
	} {
		p := Packet{Flags: tt.flags}
		if p.IsSYN() != tt.syn || p.IsSYNACK() != tt.synACK {
			t.Errorf("%v: IsSYN %v, IsSYNACK %v", tt.flags, p.IsSYN(), p.IsSYNACK())
		}
	}
}

// SYN and FIN take a number each, and numbers wrap.
func TestEnd(t *testing.T) {
	const top = 1<<32 - 1
	for _, tt := range []struct {
		seq     seqnum.Value
		payload uint32
		flags   Flags
		want    seqnum.Value
	}{
		{100, 0, ACK, 100},
		{100, 5, ACK, 105},
		{100, 0, SYN, 101},
		{100, 5, SYN, 106},
		{100, 5, FIN | ACK, 106},
		{100, 5, SYN | FIN, 107},
		{100, 5, RST | PSH, 105},
		{top, 0, SYN, 0},
		{top - 4, 10, FIN, 6},
	} {
		p := Packet{Seq: tt.seq, PayloadLen: tt.payload, Flags: tt.flags}
		if got := p.End(); got != tt.want {
			t.Errorf("%d, payload %d, %v: end %d, want %d", tt.seq, tt.payload, tt.flags, got, tt.want)
		}
	}
}

func TestConnOf(t *testing.T) {
	for _, tt := range []struct {
		name string
		mark Mark
		raw  bool
		want Conn
	}{
		{"conntrack has not looked", 0, true, ConnNone},
		{"an entry of the kernel's", 0, false, ConnEstablished},
		{"no entry", MarkConnNew, false, ConnNew},
		{"fits no entry", MarkConnInvalid, false, ConnInvalid},
		{"a watched handshake", MarkConnOpening, false, ConnOpening},
		{"a closing is established", MarkTrack, false, ConnEstablished},
		{"the user's bits say nothing", MarkConnNew | ^MarkMask, false, ConnNew},
		{"nor do they alone", ^MarkMask, true, ConnNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ConnOf(tt.mark, tt.raw); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// The marks tell each other apart, and keep off the user's bits.
func TestMarksDiffer(t *testing.T) {
	seen := make(map[Mark]bool)
	for _, m := range []Mark{
		MarkOwn, MarkTrack, MarkOpening, MarkClear, MarkSeen, MarkTracked,
		MarkConnNew, MarkConnInvalid, MarkConnOpening,
	} {
		if m == 0 || m&^MarkMask != 0 || seen[m] {
			t.Errorf("mark %#x is zero, the user's or another's", uint32(m))
		}
		seen[m] = true
	}
}

// What the hooks save to the connmark is told from all else by two bits.
func TestMarksSaved(t *testing.T) {
	saved := map[Mark]bool{
		MarkTrack: true, MarkOpening: true, MarkClear: true, MarkTrack | MarkServerClosed: true, MarkClear | MarkServerClosed: true,
		MarkClear | MarkClientClosed: true, MarkClear | MarkClosed: true,
		0: false, MarkOwn: false, MarkSeen: false, MarkTracked: false, MarkConnNew: false, MarkConnInvalid: false, MarkConnOpening: false,
	}
	for m, want := range saved {
		if bits := m & MarkSaved; (bits == MarkTrack || bits == MarkClear) != want {
			t.Errorf("mark %#x: saved %v, want %v", uint32(m), !want, want)
		}
	}
}

// Counters are listed by these names.
func TestReasonNames(t *testing.T) {
	seen := make(map[string]Reason)
	for r := range Reason(ReasonCount) {
		name := r.String()
		if other, taken := seen[name]; taken || name == "" || name == "unknown" {
			t.Errorf("reason %d is called %q, as is %d", r, name, other)
		}
		seen[name] = r
	}
	if got := Reason(ReasonCount).String(); got != "unknown" {
		t.Errorf("past the last: %q", got)
	}
}

func TestVerdictString(t *testing.T) {
	if Pass.String() != "pass" || Drop.String() != "drop" {
		t.Errorf("pass is %s, drop is %s", Pass, Drop)
	}
	if (Verdict)(0) != Drop {
		t.Error("a verdict that nobody set must drop")
	}
}
