package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/wire"
)

// loopback is the interface that the kernel's test run has packets come in by.
const loopback = 1

const seed = 0x0123456789abcdef

// openTest loads the programs, for the network namespace of inNamespace.
func openTest(t *testing.T, inherited []*os.File) *Programs {
	t.Helper()
	p, err := Open(seed, inherited)
	if err == nil {
		err = p.Pin()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := p.Close()
		if len(inherited) == 0 {
			err = errors.Join(err, p.Unpin())
		}
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

// inNamespace has the test's thread, which ends with it, in a network namespace of its own.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("takes root")
		}
		t.Skip("takes root")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// fresh loads the programs in a network namespace of the test's own.
func fresh(t *testing.T) *Programs {
	t.Helper()
	inNamespace(t)
	return openTest(t, nil)
}

// program is a pinned one.
func program(t *testing.T, path string) *ebpf.Program {
	t.Helper()
	p, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// says runs a program on a packet.
func says(t *testing.T, p *ebpf.Program, b []byte) bool {
	t.Helper()
	ether := make([]byte, 14)
	binary.BigEndian.PutUint16(ether[12:], 0x0800)
	if b[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ether[12:], 0x86dd)
	}
	n, err := p.Run(&ebpf.RunOptions{Data: append(ether, b...)})
	if err != nil {
		t.Fatal(err)
	}
	return n == 1
}

func tuple(client, server string) packet.Tuple {
	return packet.TupleFrom(netip.MustParseAddrPort(client), netip.MustParseAddrPort(server))
}

// give grants n SYNs, and as many admissions.
func give(g *grant.Table, of *packet.Tuple, inDev, replyDev uint32, n int32) {
	i := g.Index(of)
	g.Take(i)
	g.Put(i, of, inDev, replyDev)
	g.SetSYNs(i, n)
	g.Admit(i, int(n))
}

// someSegment is a SYN, a SYN+ACK or something else between a few addresses.
func someSegment(r *rand.Rand) packet.Segment {
	s := packet.Segment{Seq: 7, Ack: seqnum.Value(r.Uint32()), Window: 100, Flags: packet.SYN}
	s.Tuple = tuple(fmt.Sprintf("198.51.100.%d:%d", r.IntN(3), 1024+r.IntN(9)), fmt.Sprintf("192.0.2.%d:%d", r.IntN(2), 80+r.IntN(2)))
	if r.IntN(2) == 0 {
		s.Tuple = tuple(fmt.Sprintf("[2001:db8::%d]:%d", r.IntN(3), 1024+r.IntN(9)), fmt.Sprintf("[2001:db8:1::%d]:%d", r.IntN(2), 80+r.IntN(2)))
	}
	s.Options = packet.Options{MSS: uint16(r.IntN(2)) * 1460, HasWScale: r.IntN(2) == 0, SACKPermitted: r.IntN(2) == 0, HasTimestamp: r.IntN(2) == 0}
	switch r.IntN(7) {
	case 6:
		s.Flags = packet.ACK
	case 0, 1:
		s.Tuple, s.Flags = s.Tuple.Reverse(), packet.SYN|packet.ACK
	case 2:
		s.Flags = packet.Flags(r.IntN(64))
	case 3:
		s.Flags |= packet.ECE | packet.CWR
	}
	return s
}

// spoil makes some packets such as only the decoder in Go knows what to do with.
func spoil(r *rand.Rand, b []byte) []byte {
	tcp := 20
	if b[0]>>4 == 6 {
		tcp = 40
	}
	options := b[tcp+20:]
	switch kinds := []byte{34, 253, 254, 77, 1, 0}; {
	case r.IntN(3) > 0:
	case r.IntN(4) == 0:
		b = append(b, "payload"...)
		if tcp == 20 {
			b[3] += 7
		} else {
			b[5] += 7
		}
	case len(options) > 3:
		options[len(options)-2-r.IntN(2)] = kinds[r.IntN(len(kinds))]
	}
	return b
}

// TestOpensAsTheModelDoes holds the programs in the kernel to those in Go, of which only
// more may be said of a SYN: the kernel does not look into experimental options.
func TestOpensAsTheModelDoes(t *testing.T) {
	p := fresh(t)
	opens, admits, records := program(t, p.Opens()), program(t, p.Admits()), program(t, p.Records())
	model := grant.New(grant.Memory(), seed)
	r := seedtest.Rand(t)
	decoder := wire.NewDecoder()
	var passed, refused, fewer int
	for range 20_000 {
		s := someSegment(r)
		if r.IntN(5) == 0 {
			n, dev, reply := int32(r.IntN(4)), uint32(loopback+r.IntN(2)*r.IntN(2)), uint32(loopback-r.IntN(2)*r.IntN(2))
			for _, g := range []*grant.Table{p.Grants, model} {
				give(g, &s.Tuple, dev, reply, n)
			}
			continue
		}
		b := spoil(r, wire.Append(nil, &s))
		var in packet.Packet
		decoded := decoder.Decode(b, len(b), &in)
		in.InDev = loopback
		if !in.Flags.Has(packet.SYN) {
			if r.IntN(4) > 0 {
				answer(t, p, records, &in)
				checkAdmits(t, p, admits, model, &in, b, decoded == packet.ReasonMatch)
			} else {
				checkAdmits(t, p, admits, model, &in, b, false)
			}
			continue
		}
		got, want := says(t, opens, b), decoded == packet.ReasonMatch && model.Passes(&in)
		switch {
		case got && !want:
			t.Fatalf("%v %v %x: passes, and the model says no", s.Tuple, s.Flags, b)
		case want && !got:
			fewer++
			i := model.Index(&s.Tuple) // the model has used up one more
			p.Grants.Take(i)
			model.Take(i)
		case got:
			passed++
		default:
			refused++
		}
	}
	t.Logf("%d passed, %d did not, %d of the model's did not", passed, refused, fewer)
	if seedtest.Fixed() && (passed < 1000 || refused < 1000 || fewer > passed/10) {
		t.Error("the packets are not what they should be")
	}
}

// answer has the kernel record a SYN+ACK that the packet acknowledges.
func answer(t *testing.T, p *Programs, records *ebpf.Program, of *packet.Packet) {
	t.Helper()
	s := packet.Segment{Tuple: of.Tuple.Reverse(), Seq: of.Ack - 1, Flags: packet.SYN | packet.ACK}
	if !says(t, records, wire.Append(nil, &s)) {
		t.Fatal("an answer is not recorded")
	}
	if err := p.Ring.Read(func(*Record) {}); err != nil {
		t.Fatal(err)
	}
}

// checkAdmits holds the program that admits to the one in Go, which is not asked unless the
// packet may be admitted: its server's answer is acknowledged, and the decoder reads it. Of
// those with payload only that one is.
func checkAdmits(t *testing.T, p *Programs, admits *ebpf.Program, model *grant.Table, in *packet.Packet, b []byte, may bool) {
	t.Helper()
	var id packet.Grant
	want := false
	if may && in.Flags&^packet.PSH == packet.ACK && in.PayloadLen == 0 {
		id, want = model.Admits(in)
	}
	if got := says(t, admits, b); got != want {
		t.Fatalf("%v %v %x: admitted %v, want %v", in.Tuple, in.Flags, b, got, want)
	}
	records := 0
	err := p.Ring.Read(func(r *Record) {
		records++
		if !r.Admitted || r.Grant != id || !bytes.Equal(r.Packet, b[:min(len(b), maxRecorded)]) {
			t.Fatalf("%v: record %+v, want grant %v", in.Tuple, *r, id)
		}
	})
	if err != nil || records > 0 != want || records > 1 {
		t.Fatalf("%v: %d records, admitted %v: %v", in.Tuple, records, want, err)
	}
}

// TestAdmitsOnce has several processors take admissions while they are taken back and
// granted again: none is lost, and none is taken twice.
func TestAdmitsOnce(t *testing.T) {
	p := fresh(t)
	admits := program(t, p.Admits())
	ack := packet.Segment{Tuple: tuple("198.51.100.7:4000", "192.0.2.10:80"), Flags: packet.ACK}
	ether := append(make([]byte, 12), append([]byte{8, 0}, wire.Append(nil, &ack)...)...)
	answer(t, p, program(t, p.Records()), &packet.Packet{Tuple: ack.Tuple})
	i := p.Grants.Index(&ack.Tuple)
	p.Grants.Put(i, &ack.Tuple, loopback, 0)
	var group sync.WaitGroup
	var taken atomic.Int64
	for range 4 {
		group.Go(func() {
			for range 5000 {
				if n, err := admits.Run(&ebpf.RunOptions{Data: ether}); err != nil {
					t.Error(err)
				} else {
					taken.Add(int64(n))
				}
			}
		})
	}
	given, back, told := 0, 0, 0
	read := func() {
		if err := p.Ring.Read(func(*Record) { told++ }); err != nil {
			t.Error(err)
		}
	}
	for k := range 20_000 {
		given++
		p.Grants.Admit(i, 1)
		if k%3 == 0 {
			back += p.Grants.Take(i)
			p.Grants.Put(i, &ack.Tuple, loopback, 0)
			read()
		}
	}
	group.Wait()
	back += p.Grants.Take(i)
	read()
	if int(taken.Load()) != given-back || told != given-back {
		t.Errorf("%d given, %d taken back, %d taken, %d told", given, back, taken.Load(), told)
	}
	if taken.Load() == 0 {
		t.Error("none was taken")
	}
}

func TestWithdrawn(t *testing.T) {
	p := fresh(t)
	opens := program(t, p.Opens())
	syn := packet.Segment{Tuple: tuple("198.51.100.7:4000", "192.0.2.10:80"), Flags: packet.SYN}
	b := wire.Append(nil, &syn)
	give(p.Grants, &syn.Tuple, loopback, 0, 2)
	for i, want := range []bool{true, true, false} {
		if got := says(t, opens, b); got != want {
			t.Errorf("SYN %d of 2 granted: %v", i+1, got)
		}
	}
	give(p.Grants, &syn.Tuple, loopback, 0, 2)
	p.Grants.Take(p.Grants.Index(&syn.Tuple))
	if says(t, opens, b) {
		t.Error("a grant that was withdrawn holds")
	}
}

// TestGrantsEndWithTheProcess has rules go on to ask when nobody has the programs open.
func TestGrantsEndWithTheProcess(t *testing.T) {
	inNamespace(t)
	p, err := Open(seed, nil)
	if err == nil {
		err = p.Pin()
	}
	if err != nil {
		t.Fatal(err)
	}
	opens := program(t, p.Opens())
	syn := packet.Segment{Tuple: tuple("198.51.100.7:4000", "192.0.2.10:80"), Flags: packet.SYN}
	give(p.Grants, &syn.Tuple, loopback, 0, 1_000_000)
	b := wire.Append(nil, &syn)
	files, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if !says(t, opens, b) {
		t.Error("nothing is granted, and another has the programs open")
	}
	for _, f := range files {
		f.Close()
	}
	for deadline := time.Now().Add(time.Second); says(t, opens, b); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a grant holds, and nobody has the programs open")
		}
	}
	if err := p.Unpin(); err != nil {
		t.Error(err)
	}
}

// TestClosing has the kernel grant no SYN of a connection that is closing.
func TestClosing(t *testing.T) {
	p := fresh(t)
	opens, records := program(t, p.Opens()), program(t, p.Records())
	for _, tuples := range [][2]string{{"198.51.100.7:4000", "192.0.2.10:80"}, {"[2001:db8::7]:4000", "[2001:db8::10]:80"}} {
		syn := packet.Segment{Tuple: tuple(tuples[0], tuples[1]), Flags: packet.SYN}
		give(p.Grants, &syn.Tuple, loopback, 0, 100)
		other := syn
		other.SrcPort++
		for _, server := range []bool{false, true} {
			fin := packet.Segment{Tuple: syn.Tuple, Flags: packet.FIN | packet.ACK}
			if server {
				fin.Tuple = syn.Tuple.Reverse()
			}
			for i, want := range []bool{true, false} {
				if got := says(t, opens, wire.Append(nil, &syn)); got != want {
					t.Errorf("%v: SYN after %d FINs: %v", syn.Tuple, i, got)
				}
				if !says(t, opens, wire.Append(nil, &other)) {
					t.Errorf("%v: the SYN of another connection is not granted", syn.Tuple)
				}
				says(t, records, wire.Append(nil, &fin))
			}
			syn.SrcPort += 7
		}
	}
}

// TestRing has the kernel record packets, and another process go on with the ring.
func TestRing(t *testing.T) {
	p := fresh(t)
	records := program(t, p.Records())
	var want, got [][]byte
	r := rand.New(rand.NewPCG(3, 4))
	record := func(n int) {
		for range n {
			s := someSegment(r)
			b := wire.Append(nil, &s)
			if len(b) < minRecorded {
				b = append(b, make([]byte, minRecorded-len(b))...)
			}
			if !says(t, records, b) {
				t.Fatalf("%x is not recorded", b)
			}
			want = append(want, b[:min(len(b), maxRecorded)])
		}
	}
	last := Now()
	read := func(p *Programs) {
		err := p.Ring.Read(func(r *Record) {
			if r.At < last || r.At > Now() {
				t.Errorf("passed at %v, after %v and before %v", r.At, last, Now())
			}
			last = r.At
			if r.Ifindex != loopback || r.Admitted {
				t.Errorf("came in by %d, admitted %v", r.Ifindex, r.Admitted)
			}
			got = append(got, bytes.Clone(r.Packet))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	record(10)
	read(p)
	record(10)
	files, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	next := openTest(t, files)
	for _, f := range files {
		f.Close()
	}
	read(next)
	record(3)
	read(next)
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("record %d is %x, want %x", i, got[i], want[i])
		}
	}
	if next.header.Seed != seed {
		t.Error("the seed is another")
	}
}

// TestRingFull has the kernel record more than there is room for, and a packet that it
// cannot.
func TestRingFull(t *testing.T) {
	p := fresh(t)
	records := program(t, p.Records())
	syn := packet.Segment{Tuple: tuple("[2001:db8::1]:4000", "[2001:db8::2]:80"), Flags: packet.SYN}
	b := wire.Append(nil, &syn)
	ether := append(make([]byte, 14), b...)
	binary.BigEndian.PutUint16(ether[12:], 0x86dd)
	if p.Ring.Missed() {
		t.Error("missed some before there were any")
	}
	const more = ringSize/(recordHeader+recordSize) + 100
	if _, err := records.Run(&ebpf.RunOptions{Data: ether, Repeat: more}); err != nil {
		t.Fatal(err)
	}
	if !p.Ring.Missed() || p.Ring.Missed() {
		t.Error("that the ring was full is not told, or told twice")
	}
	n := 0
	if err := p.Ring.Read(func(*Record) { n++ }); err != nil || n < more-200 || n >= more {
		t.Errorf("%d records of %d: %v", n, more, err)
	}
	fragmented := bytes.Clone(b)
	fragmented[6] = 44 // a fragment header
	if says(t, records, fragmented) || !p.Ring.Missed() {
		t.Error("a header that is not plain is recorded, or not told of")
	}
}
