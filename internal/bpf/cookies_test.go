package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/internal/seqnum"
	"nfqfw/internal/syncookie"
	"nfqfw/internal/wire"
	"nfqfw/synproxy/cookie"
)

const redirected = 7 // TC_ACT_REDIRECT

// openCookies has no more privileges than are needed: with CAP_PERFMON the verifier looks at
// less.
func openCookies(t *testing.T) *Cookies {
	t.Helper()
	inNamespace(t)
	leave(t, 1<<unix.CAP_NET_ADMIN, 1<<(unix.CAP_BPF-32))
	c, err := OpenCookies(seed)
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			t.Logf("%+v", v)
		}
		t.Fatal(err)
	}
	c.Table.SetSole(loopback)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// leave leaves the test's thread only some capabilities: of the numbers below 32, and above.
func leave(t *testing.T, below, above uint32) {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sets := [2]unix.CapUserData{{Effective: below, Permitted: below}, {Effective: above, Permitted: above}}
	if err := unix.Capset(&h, &sets[0]); err != nil {
		t.Fatal(err)
	}
}

// asked runs the program on a packet, and gives back the answer, if it makes one.
func asked(t *testing.T, c *Cookies, ip []byte) []byte {
	t.Helper()
	ether := []byte{0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 0x08, 0}
	if ip[0]>>4 == 6 {
		binary.BigEndian.PutUint16(ether[12:], 0x86dd)
	}
	in, out := append(ether, ip...), make([]byte, 256)
	run := ebpf.RunOptions{Data: in, DataOut: out}
	n, err := c.program.Run(&run)
	switch out = run.DataOut; {
	case err != nil:
		t.Fatal(err)
	case int32(n) == tcxNext:
		if !bytes.Equal(in, out) {
			t.Fatalf("%x became %x, and is not answered", in, out)
		}
		return nil
	case n != redirected:
		t.Fatalf("%x: the program says %d", in, int32(n))
	}
	if !bytes.Equal(out[:6], in[6:12]) || !bytes.Equal(out[6:12], in[:6]) || !bytes.Equal(out[12:14], in[12:14]) {
		t.Fatalf("Ethernet header %x became %x", in[:14], out[:14])
	}
	return out[14:]
}

// TestAnswersAsTheEngineDoes holds the program in the kernel to the way of a SYN in Go: what
// it answers is octet by octet what wire.Append would send, and it answers no more.
func TestAnswersAsTheEngineDoes(t *testing.T) {
	c := openCookies(t)
	r := seedtest.Rand(t)
	keys := [2]cookie.Key{{r.Uint64(), r.Uint64()}, {r.Uint64(), r.Uint64()}}
	jar := cookie.NewJar(keys[0], keys[1])
	c.Table.SetKeys(jar.Keys())
	decoder := wire.NewDecoder()
	var counted []packet.Tuple
	var answered, left, fewer int
	for range 50_000 {
		s := someSYN(r)
		i := c.Table.Index(&s.Tuple, loopback)
		switch r.IntN(20) {
		case 0:
			c.Table.Until(i, Now()+time.Duration(r.IntN(3)-1)*time.Hour)
		case 1:
			server := someOptions(r)
			c.Table.Put(i, &s.Tuple, loopback+uint32(r.IntN(8))/7, &server, uint16(r.IntN(3)*600), uint32(r.IntN(4)))
		case 2:
			c.Table.CountTuple(&s.Tuple, 1)
			c.Table.CountSource(&s.Src, 1)
			if counted = append(counted, s.Tuple); len(counted) > r.IntN(8) {
				c.Table.CountTuple(&counted[0], -1)
				c.Table.CountSource(&counted[0].Src, -1)
				counted = counted[1:]
			}
		case 3:
			jar.Rotate(cookie.Key{r.Uint64(), r.Uint64()})
			c.Table.SetKeys(jar.Keys())
		}
		b := spoil(r, wire.Append(nil, &s))
		var in packet.Packet
		decoded := decoder.Decode(b, len(b), &in) == packet.ReasonMatch
		spoilt := decoder.Verify() != packet.ReasonMatch
		in.InDev = loopback
		before := c.Table.Answered(i)
		got := asked(t, c, b)
		if n := c.Table.Answered(i) - before; n != uint64(min(len(got), 1)) {
			t.Fatalf("%d are counted", n)
		}
		var want []byte
		if room := c.Table.Services[i].Room; decoded && in.Options.MSS > room {
			in.Options.MSS = room
		}
		if told, ok := c.Table.Answer(Now(), &in); decoded && ok {
			synack := syncookie.SYNACK(jar, &in, told)
			want = wire.Append(nil, &synack)
		}
		switch {
		case got == nil && want == nil:
			left++
		case got == nil:
			fewer++
		case !bytes.Equal(got, want) && !(spoilt && bytes.Equal(withoutSum(got), withoutSum(want))):
			t.Fatalf("%v %x\n is answered %x\n instead of  %x", s.Tuple, b, got, want)
		default:
			answered++
		}
	}
	t.Logf("%d answered, %d were not, %d of the model's were not", answered, left, fewer)
	if seedtest.Fixed() && (answered < 5000 || left < 5000 || fewer > answered/10) {
		t.Error("the packets are not what they should be")
	}
}

// withoutSum is a packet without its TCP checksum: who sends a wrong one gets a wrong one.
func withoutSum(b []byte) []byte {
	b = bytes.Clone(b)
	tcp := 20
	if len(b) > 0 && b[0]>>4 == 6 {
		tcp = 40
	}
	if len(b) >= tcp+20 {
		b[tcp+16], b[tcp+17] = 0, 0
	}
	return b
}

func someOptions(r *rand.Rand) packet.Options {
	return packet.Options{
		MSS: uint16(1 + r.IntN(1600)), HasWScale: r.IntN(2) == 0, WScale: uint8(r.IntN(15)), SACKPermitted: r.IntN(2) == 0,
		HasTimestamp: r.IntN(2) == 0, TSVal: r.Uint32(),
	}
}

func someSYN(r *rand.Rand) packet.Segment {
	s := someSegment(r)
	if !s.Flags.Has(packet.SYN) || s.Flags.Has(packet.ACK) {
		s.Tuple, s.Flags = s.Tuple.Reverse(), packet.SYN
	}
	s.Seq, s.Options = seqnum.Value(r.Uint32()), someOptions(r)
	if r.IntN(3) == 0 {
		s.Options.MSS = 0
	}
	return s
}

// TestListed has nobody answered whom a list names.
func TestListed(t *testing.T) {
	c := openCookies(t)
	for _, tt := range []struct{ client, server, list string }{
		{"198.51.100.7:4000", "192.0.2.10:80", "198.51.100.7/32"},
		{"198.51.100.7:4000", "192.0.2.10:80", "198.51.0.0/16"},
		{"[2001:db8::7]:4000", "[2001:db8::10]:80", "2001:db8::/64"},
	} {
		s := packet.Segment{Tuple: tuple(tt.client, tt.server), Flags: packet.SYN}
		i := c.Table.Index(&s.Tuple, loopback)
		c.Table.Put(i, &s.Tuple, loopback, &packet.Options{MSS: 1460}, 0, 0)
		c.Table.Until(i, Now()+time.Hour)
		list := netip.MustParsePrefix(tt.list)
		for _, step := range []struct {
			do   func() error
			want bool
		}{
			{func() error { return nil }, true},
			{func() error { return c.List(list) }, false},
			{func() error { return c.Unlist(list) }, true},
		} {
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			if got := asked(t, c, wire.Append(nil, &s)) != nil; got != step.want {
				t.Errorf("%+v: answered %v", tt, got)
			}
		}
	}
}

// TestUnprovenAsTheModelSays holds the program that looks for a cookie in an ACK to the way of
// one in Go.
func TestUnprovenAsTheModelSays(t *testing.T) {
	p, c := fresh(t), openCookies(t)
	unproven := program(t, p.Unproven())
	r := seedtest.Rand(t)
	jar := cookie.NewJar(cookie.Key{r.Uint64(), r.Uint64()}, cookie.Key{r.Uint64(), r.Uint64()})
	c.Table.SetKeys(jar.Keys())
	decoder := wire.NewDecoder()
	var counted []packet.Tuple
	dropped, proved := 0, 0
	for n := range 50_000 {
		s := someACK(r, jar)
		i := c.Table.Index(&s.Tuple, loopback)
		switch r.IntN(12) {
		case 0:
			c.Table.Until(i, Now()+time.Duration(r.IntN(4)-1)*time.Hour)
		case 1:
			c.Table.Put(i, &s.Tuple, loopback+uint32(r.IntN(8))/7, &packet.Options{MSS: 1460}, 0, 0)
		case 2:
			c.Table.CountTuple(&s.Tuple, 1)
			if counted = append(counted, s.Tuple); len(counted) > r.IntN(8) {
				c.Table.CountTuple(&counted[0], -1)
				counted = counted[1:]
			}
		case 3:
			c.Table.Demand(r.IntN(8) > 0)
		case 4:
			jar.Rotate(cookie.Key{r.Uint64(), r.Uint64()})
			c.Table.SetKeys(jar.Keys())
		}
		if n == 20_000 {
			if err := p.Demand(c); err != nil {
				t.Fatal(err)
			}
		}
		b := wire.Append(nil, &s)
		var in packet.Packet
		if decoder.Decode(b, len(b), &in) != packet.ReasonMatch {
			continue
		}
		in.InDev = loopback
		before := c.Table.Dropped(i)
		got := says(t, unproven, b)
		added := c.Table.Dropped(i) - before
		want := n >= 20_000 && c.Table.Unproven(Now(), &in)
		if got != want || (added == 1) != got {
			t.Fatalf("%+v: dropped %v, counted %d, want %v", s, got, added, want)
		}
		_, _, proves := syncookie.Proof(jar, &in)
		switch {
		case got:
			dropped++
		case proves:
			proved++
		}
	}
	t.Logf("%d dropped, %d have proved their cookie", dropped, proved)
	if seedtest.Fixed() && (dropped < 500 || proved < 500) {
		t.Error("the packets are not what they should be")
	}
}

// someACK is one that repeats a cookie, or another packet.
func someACK(r *rand.Rand, jar *cookie.Jar) packet.Segment {
	s := someSegment(r)
	if r.IntN(8) > 0 {
		s.Flags = packet.ACK | packet.Flags(r.IntN(2))*packet.PSH
	}
	client := seqnum.Value(r.Uint32())
	s.Seq = client + seqnum.Value(r.IntN(2))
	if s.Ack = jar.Bake(s.Tuple, client, someOptions(r)) + 1; r.IntN(2) == 0 {
		s.Ack ^= 1 << r.IntN(32)
	}
	return s
}
