package ipset

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/netnstest"
	"nfqfw/internal/seedtest"
	"nfqfw/internal/table"
	"nfqfw/rules"
)

// The tests in this file make sets in network namespaces of their own.

// kernel is a mirror of the table "t" in a namespace of its own, whose tables' time
// goes with the clock.
type kernel struct {
	*testing.T
	*Mirror
	skew time.Duration // of the tables' time
	log  bytes.Buffer
}

func newKernel(t *testing.T, words ...string) *kernel {
	t.Helper()
	netnstest.New(t)
	if err := Check(); err != nil {
		netnstest.Skip(t, err.Error())
	}
	k := &kernel{T: t}
	start := time.Now()
	now := func() time.Duration { return time.Since(start) + k.skew }
	k.Mirror = New(table.New(now), now, slog.New(slog.NewTextHandler(&k.log, nil)))
	fill(t, k.tables, now(), words...)
	k.must(k.Follow(t.Context(), []string{"t"}))
	return k
}

func (k *kernel) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *kernel) flush() {
	k.Helper()
	k.must(k.Flush(k.Context()))
}

var savedElement = regexp.MustCompile(`(?m)^add (\S+) (\S+) timeout (\d+)( nomatch)?`)

// elements are those of all sets, in some order. Seconds are rounded to tens.
func (k *kernel) elements() (list []string) {
	k.Helper()
	for _, m := range savedElement.FindAllStringSubmatch(netnstest.Run(k, "ipset save"), -1) {
		seconds, err := strconv.Atoi(m[3])
		k.must(err)
		list = append(list, fmt.Sprintf("%s %s %d%s", m[1], m[2], (seconds+9)/10*10, m[4]))
	}
	slices.Sort(list)
	return list
}

func (k *kernel) has(want ...string) {
	k.Helper()
	if got := k.elements(); !slices.Equal(got, want) {
		k.Errorf("elements %q, want %q", got, want)
	}
}

func (k *kernel) sets(want ...string) {
	k.Helper()
	got, err := sets(k.Context())
	k.must(err)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		k.Errorf("sets %q, want %q", got, want)
	}
}

func TestSetsFollowTheirTable(t *testing.T) {
	k := newKernel(t, "192.0.2.0/24", "!192.0.2.1", "2001:db8::/32")
	k.sets("NFQFW-t-4", "NFQFW-t-6")
	k.has("NFQFW-t-4 192.0.2.0/24 0", "NFQFW-t-4 192.0.2.1 0 nomatch", "NFQFW-t-6 2001:db8::/32 0")
	k.must(k.add("198.51.100.7", time.Hour))
	k.must(k.add("0.0.0.0/0", 0))
	k.must(k.add("!128.0.0.0/1", 0))
	_, err := k.tables.DeleteAll(k.now(), "t", []rules.Prefix{{Prefix: netip.MustParsePrefix("2001:db8::/32")}})
	k.must(err)
	k.flush()
	k.has("NFQFW-t-4 0.0.0.0/1 0", "NFQFW-t-4 128.0.0.0/1 0 nomatch", "NFQFW-t-4 192.0.2.0/24 0",
		"NFQFW-t-4 192.0.2.1 0 nomatch", "NFQFW-t-4 198.51.100.7 3600")
	fill(t, k.tables, k.now(), "192.0.2.1", "::/0") // a reload, with one the other way round
	k.flush()
	k.has("NFQFW-t-4 0.0.0.0/1 0", "NFQFW-t-4 128.0.0.0/1 0 nomatch", "NFQFW-t-4 192.0.2.1 0", "NFQFW-t-4 198.51.100.7 3600",
		"NFQFW-t-6 8000::/1 0", "NFQFW-t-6 ::/1 0")
	_, err = k.tables.Flush(k.now(), "t")
	k.must(err)
	k.flush()
	k.has()
	k.must(k.Retain(t.Context(), nil))
	k.sets()
}

func (k *kernel) add(word string, ttl time.Duration) error {
	text, negated := strings.CutPrefix(word, "!")
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a := netip.MustParseAddr(text)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	_, err = k.tables.AddAll(k.now(), "t", []rules.Prefix{{Prefix: p, Negated: negated}}, ttl)
	return err
}

// The kernel lets go by itself, and at the latest when the table is swept.
func TestSetsForget(t *testing.T) {
	k := newKernel(t)
	k.must(k.add("192.0.2.1", time.Second))
	k.must(k.add("192.0.2.2", time.Hour))
	k.flush()
	time.Sleep(1200 * time.Millisecond)
	k.has("NFQFW-t-4 192.0.2.2 3600")
	k.skew = time.Hour
	k.tables.Sweep(k.now())
	k.flush()
	k.has()
}

// Whatever the table is, the kernel finds the same in its sets.
func TestSetsMatchAsTables(t *testing.T) {
	k := newKernel(t)
	r := seedtest.Rand(t)
	tab := k.tables.Tables()[0]
	for range 20 {
		for range 10 {
			a := address(r)
			p, _ := a.Prefix(a.BitLen() - []int{0, 1, 2, 3, 8, a.BitLen() - 1, a.BitLen()}[r.IntN(7)])
			e := []rules.Prefix{{Prefix: p, Negated: r.IntN(2) == 0}}
			_, _ = k.tables.DeleteAll(k.now(), "t", []rules.Prefix{{Prefix: p}, {Prefix: p, Negated: true}})
			if r.IntN(4) > 0 {
				_, err := k.tables.AddAll(k.now(), "t", e, time.Duration(r.IntN(2))*time.Hour)
				k.must(err)
			}
		}
		k.flush()
		for range 10 {
			a := address(r)
			got := exec.Command(Tool, "test", Name("t", a.Is6()), a.String()).Run() == nil
			if want := tab.Contains(a); got != want {
				t.Fatalf("%s in the set: %v, in the table: %v; %q", a, got, want, k.elements())
			}
		}
	}
}

func address(r *rand.Rand) netip.Addr {
	if r.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{byte(10 + 190*r.IntN(2)), 0, byte(r.IntN(2)), byte(r.IntN(8))})
	}
	return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(8))})
}

// runFor has Run follow for a while. It executes in the test's thread, which alone is
// in the namespace.
func (k *kernel) runFor(d time.Duration) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), d)
	defer cancel()
	k.must(k.Mirror.Run(ctx))
}

// A flood of changes is told in few calls.
func TestRun(t *testing.T) {
	k := newKernel(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer time.AfterFunc(2*time.Second, cancel)
		for i := range 3000 {
			_, _ = k.tables.Add(k.now(), "t", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32), table.Overload)
		}
	}()
	k.must(k.Mirror.Run(ctx))
	if n := len(k.elements()); n != 3000 {
		t.Errorf("%d elements, want 3000", n)
	}
	if k.log.Len() > 0 {
		t.Error(k.log.String())
	}
}

// What the kernel refuses is said once and tried again, with all that the table has.
func TestRepair(t *testing.T) {
	k := newKernel(t, "192.0.2.0/24")
	netnstest.Run(t, "ipset destroy NFQFW-t-4", "ipset create NFQFW-t-4 hash:ip")
	k.must(k.add("198.51.100.0/24", 0)) // no element of hash:ip
	k.runFor(2 * time.Second)           // the second try is after one
	if n := strings.Count(k.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors are logged, want 1:\n%s", n, k.log.String())
	}
	netnstest.Run(t, "ipset destroy NFQFW-t-4")
	k.runFor(2 * time.Second)
	k.has("NFQFW-t-4 192.0.2.0/24 0", "NFQFW-t-4 198.51.100.0/24 0")
}

// The sets of a killed run, one half written, rules that refer to them or not.
func TestFollowReplacesLeftovers(t *testing.T) {
	k := newKernel(t, "192.0.2.0/24")
	netnstest.Run(t, "ipset create NFQFW--new-4 hash:ip", "ipset create NFQFW-gone-4 hash:net", "ipset create others hash:net",
		"iptables -t raw -A PREROUTING -m set --match-set NFQFW-t-4 src -j DROP",
		"iptables -t raw -A PREROUTING -m set --match-set NFQFW-gone-4 src -j DROP")
	again := New(k.tables, k.now, slog.New(slog.DiscardHandler))
	fill(t, k.tables, k.now(), "10.0.0.0/8")
	k.must(again.Follow(t.Context(), []string{"t"}))
	k.has("NFQFW-t-4 10.0.0.0/8 0")
	start := time.Now()
	if err := again.Retain(t.Context(), []string{"t"}); err == nil || time.Since(start) < destroyTimeout {
		t.Errorf("a set in use is waited for, and then an error: %v after %s", err, time.Since(start))
	}
	netnstest.Run(t, "iptables -t raw -F")
	k.must(again.Retain(t.Context(), []string{"t"}))
	k.sets("NFQFW-t-4", "NFQFW-t-6")
	k.must(again.Retain(t.Context(), nil))
	if out := netnstest.Run(t, "ipset list -name"); out != "others\n" {
		t.Errorf("sets left: %q", out)
	}
}

func TestCounters(t *testing.T) {
	k := newKernel(t, "127.0.0.0/8", "10.0.0.0/8")
	netnstest.Run(t, "iptables -t raw -A OUTPUT -p udp -m set --match-set NFQFW-t-4 src -j DROP")
	c, err := net.Dial("udp", "127.0.0.1:9")
	k.must(err)
	defer c.Close()
	_, _ = c.Write([]byte("dropped")) // EPERM
	all, err := k.Counters(t.Context(), "t")
	k.must(err)
	if c := all[netip.MustParsePrefix("127.0.0.0/8")]; len(all) != 2 || c != (Counter{1, 35}) {
		t.Errorf("%v", all)
	}
	if all, err := k.Counters(t.Context(), "others"); all != nil || err != nil {
		t.Errorf("%v %v", all, err)
	}
}

func TestErrors(t *testing.T) {
	netnstest.New(t)
	err := restore(t.Context(), func(w io.Writer) { fmt.Fprintln(w, "add NFQFW-none-4 192.0.2.1") })
	if err == nil || !strings.Contains(err.Error(), "line 1: The set with the given name does not exist") {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Check(); err != errNotFound {
		t.Error(err)
	}
	if err := restore(t.Context(), func(io.Writer) {}); err != errNotFound {
		t.Error(err)
	}
}

// One that has more elements than a set is made for at first.
func TestLargeTable(t *testing.T) {
	var words []string
	for i := range 9000 {
		words = append(words, fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255))
	}
	k := newKernel(t, words...)
	if n := len(k.elements()); n != 9000 {
		t.Errorf("%d elements", n)
	}
}

// A reload that allows more entries makes room for them, and keeps what is there.
func TestFollowMakesRoom(t *testing.T) {
	k := newKernel(t, "192.0.2.0/24")
	c, err := table.Load(k.now(), []config.Table{{Name: "t"}}, 70_000)
	k.must(err)
	_, err = k.tables.Replace(k.now(), c)
	k.must(err)
	k.must(k.add("198.51.100.0/24", 0))
	k.must(k.Follow(t.Context(), []string{"t"}))
	k.has("NFQFW-t-4 198.51.100.0/24 0")
	if out := netnstest.Run(t, "ipset list -t NFQFW-t-4"); !strings.Contains(out, "maxelem 70001 ") {
		t.Error(out)
	}
}
