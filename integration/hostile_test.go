package integration

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"nfqfw/internal/control"
)

// unqueued is the fate of packets that come to no queue, so that nothing is
// counted: the kernel drops them itself, or finds no port in them, and the
// server's kernel drops them.
const unqueued = ""

// A hostile is a packet that no honest client sends.
type hostile struct {
	name   string
	packet rawPacket
	want   string // the reason counted
}

// hostiles are of any family.
var hostiles = []hostile{
	{"SYN+FIN", rawPacket{flags: flagSYN | flagFIN}, "normalize"},
	{"SYN+RST", rawPacket{flags: flagSYN | flagRST}, "normalize"},
	{"SYN+FIN+ACK", rawPacket{flags: flagSYN | flagFIN | flagACK}, "normalize"},
	{"no flags", rawPacket{}, "normalize"},
	{"FIN alone", rawPacket{flags: flagFIN}, "normalize"},
	{"Christmas tree", rawPacket{flags: flagFIN | flagPSH | flagURG}, "normalize"},
	{"all flags", rawPacket{flags: 0xff}, "normalize"},
	{"SYN+PSH", rawPacket{flags: flagSYN | flagPSH}, "normalize"},
	{"wrong checksum of a SYN", rawPacket{flags: flagSYN, badSum: true}, "proto-cksum"},
	{"wrong checksum of an ACK", rawPacket{flags: flagACK, badSum: true, payload: []byte("x")}, "proto-cksum"},
	{"offset 0 in a SYN", rawPacket{flags: flagSYN, offset: 16}, "bad-offset"}, // 16 does not fit: 0
	{"offset 4 in a SYN", rawPacket{flags: flagSYN, offset: 4}, "bad-offset"},
	{"offset 4 in an ACK", rawPacket{flags: flagACK, offset: 4}, "bad-offset"},
	{"offset past the end of a SYN", rawPacket{flags: flagSYN, offset: 15}, "bad-offset"},
	{"offset past the end of a RST", rawPacket{flags: flagRST, offset: 15}, "bad-offset"},
	{"option past the header", rawPacket{flags: flagSYN, options: []byte{2, 40, 5, 180}}, "tcp-option"},
	{"option of length 0", rawPacket{flags: flagSYN, options: []byte{2, 0, 5, 180}}, "tcp-option"},
	{"option of length 1", rawPacket{flags: flagSYN, options: []byte{3, 1, 7, 0}}, "tcp-option"},
	{"option cut after its kind", rawPacket{flags: flagSYN, options: []byte{1, 1, 1, 2}}, "tcp-option"},
	{"a stray ACK", rawPacket{flags: flagACK}, "state-mismatch"},
	{"a stray RST", rawPacket{flags: flagRST}, "match"}, // it harms nobody, and the server may have a use for it
	{"a stray FIN", rawPacket{flags: flagFIN | flagACK}, "state-mismatch"},
	{"a stray SYN+ACK", rawPacket{flags: flagSYN | flagACK}, "state-mismatch"},
	{"no TCP header", rawPacket{flags: flagSYN, cut: 20}, unqueued},
	{"4 octets of TCP", rawPacket{flags: flagSYN, cut: 16}, "short"},
	{"19 octets of TCP", rawPacket{flags: flagSYN, cut: 1}, "short"},
	{"truncated in TCP", rawPacket{flags: flagSYN, lost: 4}, unqueued},
	{"truncated in IP", rawPacket{flags: flagSYN, lost: 25}, unqueued},
}

var hostilesOf = map[Family][]hostile{
	IPv4: {
		{"first fragment alone", rawPacket{flags: flagSYN, fragment: 0x2000, payload: make([]byte, 4)}, unqueued},
		{"fragment at offset 1", rawPacket{flags: flagSYN, fragment: 0x0001}, unqueued},
		{"last fragment alone", rawPacket{flags: flagSYN, fragment: 0x00ff}, unqueued},
		{"IP option past the header", rawPacket{flags: flagSYN, ipOptions: []byte{7, 44, 4, 0}}, "ip-option"},
	},
	IPv6: {
		{"10 destination options", rawPacket{flags: flagSYN, first: unix.IPPROTO_DSTOPTS, extensions: chain(60, 60, 60, 60, 60, 60, 60, 60, 60, 60)}, "ip-option"},
		{"hop-by-hop after another", rawPacket{flags: flagSYN, first: unix.IPPROTO_DSTOPTS, extensions: chain(60, 0)}, "not-tcp"},
		{"first fragment alone", rawPacket{flags: flagSYN, first: unix.IPPROTO_FRAGMENT, extensions: []byte{6, 0, 0, 1, 0, 0, 0, 9}, payload: make([]byte, 4)}, unqueued},
		{"fragment at offset 1", rawPacket{flags: flagSYN, first: unix.IPPROTO_FRAGMENT, extensions: []byte{6, 0, 0, 8, 0, 0, 0, 9}}, unqueued},
		{"extension past the end", rawPacket{flags: flagSYN, first: unix.IPPROTO_DSTOPTS, extensions: []byte{6, 200, 1, 4, 0, 0, 0, 0}}, unqueued},
		{"no next header", rawPacket{flags: flagSYN, first: unix.IPPROTO_NONE, extensions: chain(59)}, unqueued},
	},
}

// copies is how often each hostile packet is sent.
const copies = 3

// Every packet is dropped for its own reason; the daemon lives, and serves
// honest clients as before.
func TestHostilePackets(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		for _, f := range Families {
			t.Run(fmt.Sprintf("%s/%v", policy, f), func(t *testing.T) { testHostile(t, policy, f) })
		}
	}
}

func testHostile(t *testing.T, policy string, f Family) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	fw := startFirewall(t, l, fmt.Sprintf(webRule, policy, 10))
	srv := must[*AcceptCounter](t, "listen")(l.Server.CountAccepts(netip.AddrPortFrom(ServerAddr(f), 80), AcceptOptions{Echo: true}))
	w := openWire(t, l, f)
	for i, h := range append(hostiles[:len(hostiles):len(hostiles)], hostilesOf[f]...) {
		h.packet.src = netip.AddrPortFrom(AbsentAddr(f, i), uint16(1024+i))
		h.packet.dst = srv.Addr()
		expectReason(ctx, t, fw, w, h)
	}
	if h := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(f, 0), To: srv.Addr(), N: 11}); h.Count(Held) != 10 {
		t.Errorf("an honest client: %v, want 10 held", h)
	}
	if srv.Count() != 10 {
		t.Errorf("the server accepted %d, want 10", srv.Count())
	}
	if log := fw.Log(); strings.Contains(log, "panic") || strings.Contains(log, "level=ERROR") {
		t.Error("the daemon has failed")
	}
}

// expectReason sends a packet and compares what is counted.
func expectReason(ctx context.Context, t *testing.T, fw *Firewall, w *rawWire, h hostile) {
	t.Helper()
	before := reasons(ctx, t, fw)
	for range copies {
		if err := w.send(h.packet.octets()); err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
	}
	// Packets of two addresses are judged in order: once this one is counted
	// nothing can be on its way.
	last := rawPacket{src: netip.AddrPortFrom(h.packet.src.Addr(), 1), dst: h.packet.dst}
	if err := w.send(last.octets()); err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{"normalize": 1}
	if h.want != unqueued {
		want[h.want] += copies
	}
	var got map[string]uint64
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = Poll(short, func() bool {
		got = reasons(ctx, t, fw)
		for name := range got {
			if got[name] -= before[name]; got[name] == 0 {
				delete(got, name)
			}
		}
		return got["normalize"] >= want["normalize"]
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", h.name, diff)
	}
}

// reasons are the counters of "nfqfw info --json".
func reasons(ctx context.Context, t *testing.T, fw *Firewall) map[string]uint64 {
	t.Helper()
	info := must[control.Info](t, "info")(fw.Info(ctx))
	counters := make(map[string]uint64)
	for _, c := range info.Counters {
		counters[c.Name] = c.Packets
	}
	return counters
}
