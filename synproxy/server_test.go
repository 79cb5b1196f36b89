package synproxy

import (
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/packet"
)

var (
	tuple = packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:40000"), netip.MustParseAddrPort("192.0.2.10:80"))
	all   = packet.Options{MSS: 1460, HasWScale: true, SACKPermitted: true, HasTimestamp: true}
	linux = packet.Options{MSS: 1460, WScale: 7, HasWScale: true, SACKPermitted: true, HasTimestamp: true}
	plain = packet.Options{MSS: 1460, SACKPermitted: true}
)

func expectServer(t *testing.T, s *Servers, now time.Duration, want packet.Options, known bool) {
	t.Helper()
	if got, ok := s.Options(tuple, now); ok != known || ok && got != want {
		t.Errorf("at %v: %+v, %v; want %+v, %v", now, got, ok, want, known)
	}
}

func TestServersLearn(t *testing.T) {
	s := NewServers()
	expectServer(t, s, 0, packet.Options{}, false)
	// What was not offered cannot be known.
	s.Learn(tuple, packet.Options{MSS: 1460, SACKPermitted: true}, plain, 0)
	expectServer(t, s, 0, packet.Options{}, false)
	s.Learn(tuple, all, linux, 0)
	expectServer(t, s, 0, linux, true)
	// An answer to a SYN that offered less takes nothing back, but brings the MSS.
	s.Learn(tuple, packet.Options{}, packet.Options{MSS: 1400}, 0)
	want := linux
	want.MSS = 1400
	expectServer(t, s, 0, want, true)
	other := tuple
	other.DstPort++
	if _, ok := s.Options(other, 0); ok {
		t.Error("another port is known too")
	}
}

// A server without scaling is asked again after a minute.
func TestServersWithoutScaling(t *testing.T) {
	s := NewServers()
	s.Learn(tuple, all, plain, 0)
	expectServer(t, s, minDoubt-1, plain, true)
	expectServer(t, s, minDoubt, plain, false)
	s.Learn(tuple, all, linux, minDoubt)
	expectServer(t, s, minDoubt, linux, true)
}

// Who contradicts itself is not told to scale for a minute, then two, up to an hour.
func TestServersInDoubt(t *testing.T) {
	s := NewServers()
	shift := func(n uint8) packet.Options { o := linux; o.WScale = n; return o }
	now, doubt := time.Duration(0), minDoubt
	s.Learn(tuple, all, shift(7), now)
	for i := range uint8(10) {
		s.Learn(tuple, all, shift(8+i%2), now)
		expectServer(t, s, now, plain, true)
		// Nothing that it says meanwhile shortens the doubt.
		s.Learn(tuple, all, shift(7), now+time.Second)
		expectServer(t, s, now+doubt-1, plain, true)
		expectServer(t, s, now+doubt, plain, false)
		now += doubt
		s.Learn(tuple, all, shift(7), now)
		expectServer(t, s, now, shift(7), true)
		doubt = min(2*doubt, maxDoubt)
	}
	// So does a server that had timestamps.
	s = NewServers()
	s.Learn(tuple, all, linux, 0)
	without := linux
	without.HasTimestamp = false
	s.Learn(tuple, all, without, 0)
	expectServer(t, s, 0, plain, true)
}

// A server is asked once a second, and one that refuses is believed for a second.
func TestServersAsk(t *testing.T) {
	s := NewServers()
	if !s.Ask(tuple, 0) || s.Ask(tuple, askInterval-1) || !s.Ask(tuple, askInterval) {
		t.Error("not asked once a second")
	}
	s.Refuse(tuple, askInterval)
	if !s.Refuses(tuple, 2*askInterval-1) || s.Refuses(tuple, 2*askInterval) {
		t.Error("a refusal does not last a second")
	}
	for i := range 2 * maxAsked {
		other := tuple
		other.Dst[13], other.Dst[14], other.Dst[15] = 1, byte(i>>8), byte(i)
		if asks := s.Ask(other, askInterval); asks != (i < maxAsked-1) {
			t.Fatalf("server %d is asked: %v", i, asks)
		}
	}
	s.Forget(2 * askInterval)
	if len(s.asked) != 0 {
		t.Errorf("%d questions are left", len(s.asked))
	}
}

// What a client is told is never more than both sides can.
func TestToldOptions(t *testing.T) {
	none := packet.Options{MSS: 1400}
	for _, tt := range []struct {
		name           string
		client, server packet.Options
		known          bool
		want           packet.Options
	}{
		{"both can", packet.Options{MSS: 1400, WScale: 9, HasWScale: true, SACKPermitted: true, HasTimestamp: true}, linux, true, linux},
		{"unknown server", linux, packet.Options{}, false, packet.Options{MSS: defaultMSS4, SACKPermitted: true}},
		{"plain client", none, linux, true, packet.Options{MSS: 1460}},
		{"plain server", linux, none, true, none},
		{"no MSS anywhere", packet.Options{}, packet.Options{}, true, packet.Options{MSS: defaultMSS4}},
	} {
		if got := ToldOptions(&tuple, &tt.client, &tt.server, tt.known); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
