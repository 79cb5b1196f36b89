package conntrack

import (
	"errors"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"nfqfw/internal/packet"
)

func tuple(port uint16) packet.Tuple {
	return packet.TupleFrom(
		netip.AddrPortFrom(netip.MustParseAddr("198.51.100.7"), port), netip.MustParseAddrPort("192.0.2.10:80"))
}

func synFrom(port uint16) *packet.Packet {
	return &packet.Packet{Tuple: tuple(port), Seq: 100, Flags: packet.SYN, Window: 1000}
}

// begun is the state of a connection whose first packet is p.
func begun(p *packet.Packet, now time.Duration) (s State) {
	s.Begin(p, now)
	return s
}

func insert(sh *Shard, s State) (*State, error) { return sh.Insert(&s) }

func TestTableFindsBothDirections(t *testing.T) {
	table := NewTable(10, NewSources(10, 1), 1)
	sh := table.Lock(tuple(1))
	defer sh.Unlock()
	s, err := insert(sh, begun(synFrom(1), 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, d := sh.Find(tuple(1)); got != s || d != Original {
		t.Errorf("Find(original) = %v, %v", got, d)
	}
	if got, d := sh.Find(tuple(1).Reverse()); got != s || d != Reply {
		t.Errorf("Find(reply) = %v, %v", got, d)
	}
	sh.Remove(s)
	if got, _ := sh.Find(tuple(1)); got != nil || table.Len() != 0 {
		t.Errorf("after Remove: found %v, Len %d", got, table.Len())
	}
}

func TestTableIsBounded(t *testing.T) {
	table := NewTable(3, NewSources(10, 1), 1)
	for port := range uint16(5) {
		sh := table.Lock(tuple(port + 1))
		_, err := insert(sh, begun(synFrom(port+1), 0))
		sh.Unlock()
		if full := port >= 3; errors.Is(err, ErrFull) != full {
			t.Errorf("insert %d: %v", port+1, err)
		}
	}
	if table.Len() != 3 {
		t.Errorf("Len = %d, want 3", table.Len())
	}
}

// A place that a removed state leaves is taken again: the table does not grow
// with the connections it has seen.
func TestTableReusesPlaces(t *testing.T) {
	table := NewTable(10, NewSources(10, 1), 1)
	for port := range uint16(1000) {
		sh := table.Lock(tuple(port))
		s, err := insert(sh, begun(synFrom(port), 0))
		if err != nil {
			t.Fatal(err)
		}
		sh.Remove(s)
		sh.Unlock()
	}
	for i := range table.shards {
		if n := table.shards[i].places(); n > 1 {
			t.Errorf("shard %d holds %d places", i, n)
		}
	}
}

// A state fills three lines of memory, and never a part of a fourth.
func TestStateSize(t *testing.T) {
	if n := unsafe.Sizeof(State{}); n != 192 {
		t.Errorf("a state takes %d octets, not 192", n)
	}
}

func TestLockDoesNotAllocate(t *testing.T) {
	table := NewTable(10, NewSources(10, 1), 1)
	if n := testing.AllocsPerRun(100, func() { table.Lock(tuple(7)).Unlock() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Gigabytes may pass between two packets that visit: numbers may wrap in
// between, and the acknowledgment of a FIN still counts.
func TestFINAfterUnseenPayload(t *testing.T) {
	s := begun(synFrom(1), 0)
	s.Track(Reply, &packet.Packet{Seq: 500, Ack: 101, Flags: packet.SYN | packet.ACK}, 0)
	s.Track(Original, &packet.Packet{Seq: 101, Ack: 501, Flags: packet.ACK}, 0)
	far := s.Dst.SeqLo.Add(3 << 30)
	s.Track(Reply, &packet.Packet{Seq: far, Ack: 101, Flags: packet.FIN | packet.ACK}, time.Second)
	s.Track(Original, &packet.Packet{Seq: 101, Ack: far, Flags: packet.ACK}, time.Second)
	if s.Dst.State != Closing {
		t.Errorf("an ACK short of the FIN: %v", s.Dst.State)
	}
	s.Track(Original, &packet.Packet{Seq: 101, Ack: far + 1, Flags: packet.ACK}, time.Second)
	if s.Dst.State != FinWait2 {
		t.Errorf("an ACK of the FIN: %v", s.Dst.State)
	}
}

// What makes room is a state that is closed, else the oldest half-open one; never
// one that is established, or whose server is about to answer.
func TestTableMakesRoom(t *testing.T) {
	table := NewTable(1000, NewSources(10, 1), 1)
	sh := table.LockShard(0)
	defer sh.Unlock()
	add := func(port uint16, created int, change func(*State)) {
		s := begun(synFrom(port), time.Duration(created))
		change(&s)
		if _, err := insert(sh, s); err != nil {
			t.Fatal(err)
		}
	}
	peers := func(src, dst PeerState) func(*State) {
		return func(s *State) { s.Src.State, s.Dst.State = src, dst }
	}
	expect := func(want uint16) {
		t.Helper()
		got := sh.Expendable()
		if want == 0 && got != nil || want != 0 && (got == nil || got.Tuple.SrcPort != want) {
			t.Fatalf("%+v makes room, want the one of port %d", got, want)
		}
		if got != nil {
			sh.Remove(got)
		}
	}
	expect(0)
	add(1, 1, peers(Established, Established))
	add(2, 2, peers(FinWait2, Established))
	add(3, 3, peers(ProxyDst, Closed))
	add(4, 4, func(s *State) { s.Src.State, s.Handshake.Held = ProxySrc, true })
	expect(0)
	add(5, 6, peers(SynSent, Closed))
	add(6, 5, peers(ProxySrc, Closed))
	add(7, 7, peers(FinWait2, FinWait2))
	expect(7)
	expect(6)
	expect(5)
	expect(0)
}
