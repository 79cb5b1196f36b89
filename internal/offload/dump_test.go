package offload

import (
	"encoding/binary"
	"maps"
	"testing"
	"time"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
)

// dumped is what Dump says, by tuple.
func dumped(t testing.TB, table *Table, bits packet.Mark) map[packet.Tuple]Entry {
	t.Helper()
	list := make(map[packet.Tuple]Entry)
	if err := table.Dump(bits, func(tuple packet.Tuple, e *Entry) { list[tuple] = *e }); err != nil {
		t.Fatal(err)
	}
	return list
}

// Dump says of each entry what Query says of it, and leaves out what has other
// marks or is not TCP.
func TestDumpIsWhatQuerySays(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	want := make(map[packet.Tuple]Entry)
	for i := range uint16(500) { // more than one message of the kernel's holds
		for _, tuple := range tuples {
			tuple.SrcPort += i
			mark := packet.MarkClear
			if i%5 == 0 {
				mark = packet.MarkTrack
			}
			mustCreate(t, table, packet.Offload{Tuple: tuple, Timeout: time.Hour, Mark: mark})
			if i%5 != 0 {
				_, e, err := table.Query(tuple)
				if err != nil {
					t.Fatal(err)
				}
				want[tuple] = e
			}
		}
	}
	netnstest.Run(t, "conntrack -I -p udp -s 192.0.2.1 -d 192.0.2.2 --sport 1 --dport 2 -t 60 -m 0x40000000")
	got := dumped(t, table, packet.MarkClear)
	for _, list := range []map[packet.Tuple]Entry{got, want} {
		for tuple, e := range list {
			e.Timeout = 0 // it runs
			list[tuple] = e
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	if n := len(dumped(t, table, packet.MarkTrack)); n != 200 {
		t.Errorf("%d entries have the other mark, want 200", n)
	}
	if n := len(dumped(t, table, packet.MarkOwn)); n != 0 {
		t.Errorf("%d entries have a mark that none was given", n)
	}
}

// A tuple finds its entry from either end, and the answer tells from which.
func TestQueryTellsTheDirection(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	for _, tuple := range tuples {
		mustCreate(t, table, packet.Offload{Tuple: tuple, Timeout: time.Hour})
		for asked, want := range map[packet.Tuple]bool{tuple: false, tuple.Reverse(): true} {
			if k, e, err := table.Query(asked); err != nil || k != packet.KernelPresent || e.Reverse != want {
				t.Errorf("%v: %v, reverse %v, %v", asked, k, e.Reverse, err)
			}
		}
	}
}

// Octets of anything are no entry, and no crash.
func FuzzMessages(f *testing.F) {
	f.Add([]byte("\x14\x00\x00\x00\x03\x00\x02\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := socket{sequence: 1}
		if len(b) >= 12 {
			binary.NativeEndian.PutUint32(b[8:], s.sequence)
		}
		_, _ = s.messages(b, func(body []byte) {
			var e Entry
			e.parse(body)
			parseTuple(body)
		})
	})
}

// 50,000 entries of the kernel's, read.
func BenchmarkDump(b *testing.B) {
	netnstest.New(b)
	table := open(b)
	const n = 50_000
	for i := range n {
		tuple := tuples[0]
		tuple.SrcPort, tuple.Src[15] = uint16(i), byte(i>>16)
		mustCreate(b, table, packet.Offload{Tuple: tuple, Timeout: time.Hour, Mark: packet.MarkClear})
	}
	for b.Loop() {
		found := 0
		if err := table.Dump(packet.MarkClear, func(packet.Tuple, *Entry) { found++ }); err != nil || found != n {
			b.Fatal(found, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/entry")
}
