package control

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"testing"

	"nfqfw/internal/seedtest"
)

// What is written by hand is what the library writes, of every state.
func TestAppendJSON(t *testing.T) {
	same := func(s *State) bool {
		want, err := json.Marshal(s)
		got := s.AppendJSON(nil)
		if err != nil || string(got) != string(want) {
			t.Errorf("got  %s\nwant %s (%v)", got, want, err)
			return false
		}
		return true
	}
	same(&State{})
	r := seedtest.Rand(t)
	for range 1000 {
		same(&State{
			ID: "00ab", Protocol: "tcp", Interface: "eth0", State: "ESTABLISHED:CLOSING", Timeout: "tcp.closing", Rule: "web",
			Source: anyPeer(r), Dest: anyPeer(r), Counts: r.IntN(2) == 0, Proxied: r.IntN(2) == 0, Number: r.Uint32(),
			Age: float64(r.IntN(1<<40)) / 1000, Expires: float64(r.IntN(100_000)) / 1000,
			Original: anyCounter(r), Reply: anyCounter(r),
		})
	}
	for _, name := range []string{`<"web" & \co>`, "caf\u00e9\x00\u2028", "\xff", "eth0"} {
		same(&State{Rule: name, Interface: name, Source: Peer{Address: netip.MustParseAddr("fe80::1%eth0")}})
	}
}

func anyPeer(r *rand.Rand) Peer {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.IntN(2) * r.IntN(2) * r.IntN(256)) // zeros, as addresses have
	}
	p := Peer{Address: netip.AddrFrom16(b), Port: uint16(r.Uint32()), State: "CLOSING", SeqLo: r.Uint32(), SeqHi: r.Uint32(), SeqDiff: r.Uint32()}
	if r.IntN(2) == 0 {
		p.Address = netip.AddrFrom4([4]byte(b[:]))
	}
	if shift := uint8(r.IntN(15)); r.IntN(2) == 0 {
		p.WScale = &shift
	}
	return p
}

func anyCounter(r *rand.Rand) *Counter {
	if r.IntN(2) == 0 {
		return nil
	}
	return &Counter{Packets: r.Uint64(), Bytes: r.Uint64()}
}
