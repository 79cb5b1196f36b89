package cookie

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/dchest/siphash"

	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/internal/seqnum"
)

func TestSumIsSipHash(t *testing.T) {
	r := seedtest.Rand(t)
	for range 1000 {
		k := Key{r.Uint64(), r.Uint64()}
		var words [6]uint64
		var octets []byte
		for i := range words {
			words[i] = r.Uint64()
			octets = binary.LittleEndian.AppendUint64(octets, words[i])
		}
		if got, want := k.sum(&words), siphash.Hash(k[0], k[1], octets); got != want {
			t.Fatalf("sum(%x) = %x, want %x", words, got, want)
		}
	}
}

var testTuple = packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.10:80"))

func TestCookieBringsOptionsBack(t *testing.T) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	for _, tt := range []struct{ in, want packet.Options }{
		{packet.Options{MSS: 1460}, packet.Options{MSS: 1460}},
		{packet.Options{MSS: 9000, SACKPermitted: true}, packet.Options{MSS: 1460, SACKPermitted: true}},
		{packet.Options{MSS: 1459, WScale: 7, HasWScale: true}, packet.Options{MSS: 1452, WScale: 7, HasWScale: true}},
		{packet.Options{MSS: 1300, WScale: 14, HasWScale: true}, packet.Options{MSS: 1200, WScale: 10, HasWScale: true}},
		{packet.Options{MSS: 100, WScale: 0, HasWScale: true}, packet.Options{MSS: 216, WScale: 0, HasWScale: true}},
	} {
		got, ok := j.Open(testTuple, 1234, j.Bake(testTuple, 1234, tt.in))
		if !ok || got != tt.want {
			t.Errorf("%+v came back as %+v, %v; want %+v", tt.in, got, ok, tt.want)
		}
	}
}

func TestCookieIsOfOneConnection(t *testing.T) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	cookie := j.Bake(testTuple, 1234, packet.Options{MSS: 1460})
	other := testTuple
	other.SrcPort++
	if _, ok := j.Open(other, 1234, cookie); ok {
		t.Error("accepted from another port")
	}
	if _, ok := j.Open(testTuple, 1235, cookie); ok {
		t.Error("accepted with another initial number")
	}
	accepted := 0
	for i := range seqnum.Value(1 << 16) {
		if _, ok := j.Open(testTuple, 1234, i*65521); ok {
			accepted++
		}
	}
	if accepted > 2 {
		t.Errorf("%d of 65536 guesses accepted", accepted)
	}
}

func TestCookieLivesForTwoKeys(t *testing.T) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	cookie := j.Bake(testTuple, 1234, packet.Options{MSS: 1460})
	j.Rotate(Key{5, 6})
	if _, ok := j.Open(testTuple, 1234, cookie); !ok {
		t.Error("refused after one rotation")
	}
	j.Rotate(Key{7, 8})
	if _, ok := j.Open(testTuple, 1234, cookie); ok {
		t.Error("accepted after two rotations")
	}
}

func FuzzOpen(f *testing.F) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	f.Add(uint32(1), uint32(2))
	f.Fuzz(func(t *testing.T, client, cookie uint32) {
		o, ok := j.Open(testTuple, seqnum.Value(client), seqnum.Value(cookie))
		if ok && j.Bake(testTuple, seqnum.Value(client), o) != seqnum.Value(cookie) && cookie&1 == 0 {
			t.Errorf("accepted a cookie that is not the one for %+v", o)
		}
	})
}

func BenchmarkBake(b *testing.B) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	o := packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true}
	for b.Loop() {
		j.Bake(testTuple, 1234, o)
	}
}

func BenchmarkOpen(b *testing.B) {
	j := NewJar(Key{1, 2}, Key{3, 4})
	cookie := j.Bake(testTuple, 1234, packet.Options{MSS: 1460})
	for b.Loop() {
		j.Open(testTuple, 1234, cookie)
	}
}
