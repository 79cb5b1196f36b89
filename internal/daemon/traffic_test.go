package daemon

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/netnstest"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

// The counters of a connection are the same whether the kernel is asked for one entry
// or for all, and whichever end it believes to be the client.
func TestTraffic(t *testing.T) {
	netnstest.New(t)
	if _, err := offload.Accounting.Set(true); err != nil {
		t.Fatal(err)
	}
	table, err := offload.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	tuple := func(port uint16) packet.Tuple {
		return packet.TupleFrom(netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1::7"), port), netip.MustParseAddrPort("[2001:db8::10]:80"))
	}
	for _, o := range []packet.Offload{
		{Tuple: tuple(1), Mark: packet.MarkClear}, {Tuple: tuple(2), Mark: packet.MarkTrack | packet.MarkServerClosed}, {Tuple: tuple(3).Reverse(), Mark: packet.MarkOpening},
	} {
		o.Timeout = time.Hour
		if err := table.Create(&o); err != nil {
			t.Fatal(err)
		}
	}
	for _, many := range []bool{false, true} {
		kernel, err := openTraffic(many)
		if err != nil {
			t.Fatal(err)
		}
		for port, want := range map[uint16]bool{1: true, 2: true, 3: true, 4: false} {
			if _, ok := kernel.of(tuple(port)); ok != want {
				t.Errorf("many %v, port %d: counted %v", many, port, ok)
			}
		}
		if many && len(kernel.dumped) != 3 {
			t.Errorf("%d entries dumped", len(kernel.dumped))
		}
		there, back := control.Counter{Packets: 7}, control.Counter{Packets: 5}
		kernel.dumped = map[packet.Tuple]counted{tuple(3).Reverse(): {back, there}}
		if c, ok := kernel.of(tuple(3)); !ok || c != (counted{there, back}) {
			t.Errorf("the other way round: %+v", c)
		}
		kernel.close()
	}
}
