package offload

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
)

func open(t testing.TB) *Table {
	t.Helper()
	table, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

func tuple(src, dst string) packet.Tuple {
	return packet.TupleFrom(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
}

var tuples = []packet.Tuple{
	tuple("198.51.100.7:51000", "192.0.2.10:80"),
	tuple("[2001:db8:1::7]:51000", "[2001:db8::10]:80"),
}

// order is one with all there is.
func order(t packet.Tuple) packet.Offload {
	return packet.Offload{
		Op: packet.OffloadCreate, Tuple: t, Timeout: 90*time.Second + time.Millisecond,
		SeqDiff: 0xfffffff0, ServerISN: 0, SrcWScale: 7, DstWScale: 9, HasWScale: true, SACKPermitted: true,
		TSDiff: 77, Mark: packet.MarkClear,
	}
}

func mustCreate(t testing.TB, table *Table, o packet.Offload) {
	t.Helper()
	if err := table.Create(&o); err != nil {
		t.Fatal(err)
	}
}

// dump is the table as ti-mo/conntrack reads it.
func dump(t testing.TB) []conntrack.Flow {
	t.Helper()
	c, err := conntrack.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	flows, err := c.Dump(nil)
	if err != nil {
		t.Fatal(err)
	}
	return flows
}

func TestCreateIsWhatOthersRead(t *testing.T) {
	for _, tuple := range tuples {
		t.Run(tuple.String(), func(t *testing.T) {
			netnstest.New(t)
			table := open(t)
			mustCreate(t, table, order(tuple))
			flows := dump(t)
			if len(flows) != 1 {
				t.Fatalf("%d entries", len(flows))
			}
			f := flows[0]
			tcp := f.ProtoInfo.TCP
			if tcp == nil || tcp.State != 3 || tcp.OriginalWindowScale != 7 || tcp.ReplyWindowScale != 9 ||
				tcp.OriginalFlags != 0x0300 || tcp.ReplyFlags != 0x0300 { // flags, then mask
				t.Errorf("TCP %+v", tcp)
			}
			const status = statusConfirmed | statusAssured | statusSeenReply | statusSeqAdjust
			if f.Status.Value != status || f.Timeout < 90 || f.Timeout > 91 || f.Mark != uint32(packet.MarkClear) {
				t.Errorf("status %x, timeout %d, mark %x", f.Status.Value, f.Timeout, f.Mark)
			}
			if a := f.SeqAdjReply; a.Position != 0 || a.OffsetBefore != 0xfffffff0 || a.OffsetAfter != 0xfffffff0 {
				t.Errorf("sequence adjustment %+v", a)
			}
			source := netip.AddrPortFrom(f.TupleOrig.IP.SourceAddress, f.TupleOrig.Proto.SourcePort)
			back := netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort)
			if source != tuple.Source() || back != tuple.Destination() {
				t.Errorf("from %v, answered by %v", source, back)
			}
		})
	}
}

func TestCreatePlain(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	mustCreate(t, table, packet.Offload{Tuple: tuples[0], Timeout: time.Millisecond})
	f := dump(t)[0]
	if f.SeqAdjReply.OffsetAfter != 0 || f.Status.Value&statusSeqAdjust != 0 || f.ProtoInfo.TCP.OriginalFlags != 0 || f.Timeout > 1 {
		t.Errorf("%+v %+v", f, f.ProtoInfo.TCP)
	}
}

func TestCreateReplaces(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	for i, old := range []packet.Tuple{tuples[0], tuples[0].Reverse()} {
		mustCreate(t, table, packet.Offload{Tuple: old, Timeout: time.Minute})
		o := order(tuples[0])
		o.SeqDiff += 5
		mustCreate(t, table, o)
		flows := dump(t)
		if len(flows) != 1 || flows[0].SeqAdjReply.OffsetAfter != uint32(o.SeqDiff) || flows[0].Timeout < 80 {
			t.Errorf("%d: %+v", i, flows)
		}
	}
}

// TestCreateReplacesReply: another entry answers to the reply tuple.
func TestCreateReplacesReply(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	other := tuple("203.0.113.1:1", "192.0.2.10:80")
	netnstest.Run(t, "conntrack -I -p tcp -s 203.0.113.1 -d 192.0.2.10 --sport 1 --dport 80 "+
		"-r 192.0.2.10 -q 198.51.100.7 --reply-port-src 80 --reply-port-dst 51000 --timeout 60 --state ESTABLISHED")
	mustCreate(t, table, order(tuples[0]))
	if k, _, err := table.Query(other); k != packet.KernelAbsent || err != nil {
		t.Errorf("%v, %v", k, err)
	}
}

func TestDelete(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	for _, tuple := range tuples {
		mustCreate(t, table, order(tuple))
	}
	for range 2 { // the second time there is nothing
		if err := table.Delete(tuples[0].Reverse()); err != nil {
			t.Error(err)
		}
	}
	if k, _, err := table.Query(tuples[0]); k != packet.KernelAbsent || err != nil {
		t.Errorf("%v, %v", k, err)
	}
	if k, e, err := table.Query(tuples[1]); k != packet.KernelPresent || err != nil || e.State != Established {
		t.Errorf("%v, %+v, %v", k, e, err)
	}
}

func TestCreateFailed(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	o := order(tuples[0])
	o.Tuple.Dst = tuples[1].Dst // of the other family
	if err := table.Create(&o); err == nil {
		netnstest.Run(t, "conntrack -F")
	}
	mustCreate(t, table, order(tuples[0])) // answers are still matched
	unix.Close(table.socket.fd)
	err := table.Create(&o)
	if table.socket, _ = openSocket(); !errors.Is(err, unix.EBADF) || !strings.HasPrefix(err.Error(), "offload: create 198.51.100.7:51000 > ") {
		t.Error(err)
	}
}

func TestStaleAnswer(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	// A request whose answer nobody fetches.
	table.out.begin(msgDelete, unix.NLM_F_ACK, table.socket.next(), unix.AF_INET)
	table.out.tuple(ctaTupleOrig, &tuples[0])
	if _, err := unix.Write(table.socket.fd, table.out.end()); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, table, order(tuples[0]))
	if k, _, err := table.Query(tuples[0]); k != packet.KernelPresent || err != nil {
		t.Errorf("%v, %v", k, err)
	}
}

func TestSetting(t *testing.T) {
	netnstest.New(t)
	for _, step := range []struct{ set, was bool }{{true, false}, {true, true}, {false, true}, {false, false}} {
		if was, err := Accounting.Set(step.set); was != step.was || err != nil {
			t.Errorf("%+v: was %v, %v", step, was, err)
		}
	}
}

func TestNoSetting(t *testing.T) {
	netnstest.New(t)
	const want = "offload: a setting of conntrack: open /proc/none: no such file or directory"
	if _, err := readSetting("/proc/none"); err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

func TestAllocations(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	o := order(tuples[1])
	if n := testing.AllocsPerRun(100, func() {
		_ = table.Create(&o)
		_, _, _ = table.Query(o.Tuple)
		_ = table.Delete(o.Tuple)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]uint32{
		-1: 1, 0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, 24 * time.Hour: 86400, 1<<63 - 1: 1<<31 - 1,
	} {
		if got := seconds(d); got != want {
			t.Errorf("%v: %d, want %d", d, got, want)
		}
	}
}

func FuzzEntry(f *testing.F) {
	var m message
	m.begin(msgNew, 0, 1, unix.AF_INET)
	m.protoinfo(&packet.Offload{HasWScale: true})
	m.seqAdjust(&packet.Offload{SeqDiff: 1})
	f.Add(bytes.Clone(m.end()[unix.NLMSG_HDRLEN:]))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var e Entry
		e.parse(b)
	})
}

func BenchmarkCreate(b *testing.B) {
	netnstest.New(b)
	table := open(b)
	o := order(tuples[0])
	o.Timeout = time.Minute
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		binary.BigEndian.PutUint32(o.Tuple.Src[12:], 0x0a000000+uint32(i>>14))
		o.Tuple.SrcPort = uint16(1024 + i&0x3fff)
		mustCreate(b, table, o)
		if i++; i%10_000 == 0 { // under nf_conntrack_max
			b.StopTimer()
			netnstest.Run(b, "conntrack -F")
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkQuery(b *testing.B) {
	netnstest.New(b)
	table := open(b)
	mustCreate(b, table, order(tuples[0]))
	b.ReportAllocs()
	for b.Loop() {
		if k, _, err := table.Query(tuples[0]); k != packet.KernelPresent || err != nil {
			b.Fatal(k, err)
		}
	}
}

// What Create has told, and what a later daemon needs, can be read again.
func TestEntryTellsWhatWasCreated(t *testing.T) {
	for _, tuple := range tuples {
		netnstest.New(t)
		if _, err := Timestamps.Set(true); err != nil {
			t.Fatal(err)
		}
		table := open(t)
		o := order(tuple)
		o.ServerISN = 500
		mustCreate(t, table, o)
		found := 0
		err := table.Dump(0, func(got packet.Tuple, e *Entry) {
			found++
			same := e.SeqDiff == o.SeqDiff && e.ServerISN == o.ServerISN && e.TSDiff == o.TSDiff && e.HasWScale &&
				e.SrcWScale == o.SrcWScale && e.DstWScale == o.DstWScale && e.SACKPermitted
			if got != tuple || !same || e.State != Established || e.Mark != o.Mark {
				t.Errorf("%v: %+v", got, *e)
			}
			if e.Age <= 0 || e.Age > time.Minute {
				t.Errorf("%v: its age is %v", got, e.Age)
			}
		})
		if err != nil || found != 1 {
			t.Errorf("%d entries, %v", found, err)
		}
	}
}
