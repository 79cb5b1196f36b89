package ipset

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/table"
)

func TestName(t *testing.T) {
	for _, tt := range []struct {
		table string
		ipv6  bool
		want  string
	}{
		{"abusers", false, "NFQFW-abusers-4"},
		{"abusers", true, "NFQFW-abusers-6"},
		{strings.Repeat("x", 23), true, "NFQFW-xxxxxxxxxxxxxxxxxxxxxxx-6"},
		{strings.Repeat("x", 24), false, "NFQFW-xxxxxxxxxxxxxx~a001c025-4"},
		{strings.Repeat("x", 31), false, "NFQFW-xxxxxxxxxxxxxx~5c83d1bf-4"},
	} {
		got := Name(tt.table, tt.ipv6)
		if got != tt.want || len(got) > 31 {
			t.Errorf("%s: %s, want %s", tt.table, got, tt.want)
		}
	}
}

func TestCreate(t *testing.T) {
	var b strings.Builder
	Create(&b, "abusers", 1000)
	const want = `create NFQFW-abusers-4 hash:net family inet maxelem 1001 timeout 0 counters
create NFQFW-abusers-6 hash:net family inet6 maxelem 1001 timeout 0 counters
`
	if b.String() != want {
		t.Errorf("got %s\nwant %s", b.String(), want)
	}
}

// newTables is a set of tables at time 0 with the table "t".
func newTables(t *testing.T, now *time.Duration, words ...string) *table.Set {
	t.Helper()
	s := table.New(func() time.Duration { return *now })
	fill(t, s, *now, words...)
	return s
}

// fill makes words all that the configuration says of the table "t".
func fill(t *testing.T, s *table.Set, now time.Duration, words ...string) {
	t.Helper()
	of := config.Table{Name: "t"}
	for _, w := range words {
		p, err := config.ParseEntry(w)
		if err != nil {
			t.Fatal(err)
		}
		of.Entries = append(of.Entries, p)
	}
	c, err := table.Load(now, []config.Table{of}, 10_000)
	if err == nil {
		_, err = s.Replace(now, c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteAll(t *testing.T) {
	var now time.Duration
	for _, tt := range []struct{ entries, want4, want6 string }{
		{"192.0.2.1 !192.0.2.0/24 2001:db8::/32",
			"add S 192.0.2.0/24 timeout 0 nomatch\nadd S 192.0.2.1/32 timeout 0\n", "add S 2001:db8::/32 timeout 0\n"},
		{"0.0.0.0/0 !::/0", "add S 0.0.0.0/1 timeout 0\nadd S 128.0.0.0/1 timeout 0\n",
			"add S ::/1 timeout 0 nomatch\nadd S 8000::/1 timeout 0 nomatch\n"},
		{"0.0.0.0/0 !128.0.0.0/1", "add S 0.0.0.0/1 timeout 0\nadd S 128.0.0.0/1 timeout 0 nomatch\n", ""},
	} {
		s := newTables(t, &now, strings.Fields(tt.entries)...)
		for i, want := range []string{tt.want4, tt.want6} {
			var b strings.Builder
			writeAll(&b, "S", s.Tables()[0], families[i], now)
			if b.String() != want {
				t.Errorf("%s, %s:\ngot  %q\nwant %q", tt.entries, families[i].word, b.String(), want)
			}
		}
	}
}

// The kernel never lets go before the table does.
func TestTimeout(t *testing.T) {
	const now = time.Hour
	for expires, want := range map[time.Duration]int64{
		0: 0, now + 1: 1, now + time.Second: 1, now + time.Second + 1: 2, now + 2*time.Second: 2,
		now + config.MaxTTL: 2147483, now - 1: 1,
	} {
		if got := timeout(table.Entry{Expires: expires}, now); got != want {
			t.Errorf("expires at %s: timeout %d, want %d", expires, got, want)
		}
	}
}

func TestParseCounter(t *testing.T) {
	for _, tt := range []struct {
		line, prefix string
		want         Counter
	}{
		{"create NFQFW-t-4 hash:net family inet", "", Counter{}},
		{"add NFQFW-t-4 192.0.2.0/24 timeout 0 packets 5 bytes 300", "192.0.2.0/24", Counter{5, 300}},
		{"add NFQFW-t-6 2001:db8::1 timeout 7 nomatch packets 18446744073709551615 bytes 1", "2001:db8::1/128", Counter{1<<64 - 1, 1}},
		{"add NFQFW-t-4 x", "", Counter{}},
	} {
		p, c, ok := parseCounter(tt.line)
		if ok != (tt.prefix != "") || ok && p.String() != tt.prefix || c != tt.want {
			t.Errorf("%s: %v %v %v", tt.line, p, c, ok)
		}
	}
}

func TestOf(t *testing.T) {
	all := map[netip.Prefix]Counter{
		netip.MustParsePrefix("0.0.0.0/1"): {1, 10}, netip.MustParsePrefix("128.0.0.0/1"): {2, 20}, netip.MustParsePrefix("192.0.2.1/32"): {4, 40},
	}
	if c := Of(all, netip.MustParsePrefix("0.0.0.0/0")); c != (Counter{3, 30}) {
		t.Error(c)
	}
	if c := Of(all, netip.MustParsePrefix("192.0.2.1/32")); c != (Counter{4, 40}) {
		t.Error(c)
	}
}

func TestNotes(t *testing.T) {
	var n notes
	n.add(netip.MustParsePrefix("0.0.0.0/0"))
	n.add(netip.MustParsePrefix("128.0.0.0/1"))
	n.add(netip.MustParsePrefix("192.0.2.1/32"))
	if n.all || len(n.prefixes) != 3 {
		t.Errorf("%+v", n)
	}
	for i := range uint32(maxNotes) {
		n.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
	}
	if !n.all || n.prefixes != nil {
		t.Errorf("%d notes are kept", len(n.prefixes))
	}
	n.add(netip.MustParsePrefix("192.0.2.1/32"))
	if n.prefixes != nil {
		t.Error("a set that is written anew needs no notes")
	}
	if got := elements(netip.MustParsePrefix("::/0")); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1")}) {
		t.Error(got)
	}
}
