package ipset

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/table"
)

// create is the line that makes a set.
func create(w io.Writer, name string, f family, size int) {
	fmt.Fprintf(w, "create %s hash:net family %s maxelem %d timeout 0 counters\n", name, f.word, size)
}

// Create is the input for "ipset restore" that makes the sets of a table, for people
// to read.
func Create(w io.Writer, name string, size int) {
	for _, f := range families {
		create(w, Name(name, f.ipv6), f, room(size))
	}
}

// room is how many elements a set has for a table of that size: an entry of length 0
// takes two.
func room(entries int) int { return entries + 1 }

// elements are the prefixes that stand for one in a set, which has none of length 0.
func elements(p netip.Prefix) []netip.Prefix {
	if p.Bits() != 0 {
		return []netip.Prefix{p}
	}
	octets := p.Addr().AsSlice()
	low := netip.PrefixFrom(p.Addr(), 1)
	octets[0] = 0x80
	high, _ := netip.AddrFromSlice(octets)
	return []netip.Prefix{low, netip.PrefixFrom(high, 1)}
}

// entry is what a table has for an element.
func entry(t *table.Table, element netip.Prefix) (table.Entry, bool) {
	e, ok := t.Entry(element)
	if !ok && element.Bits() == 1 {
		return t.Entry(netip.PrefixFrom(element.Addr(), 0).Masked())
	}
	return e, ok
}

// writeElement is the line that makes a set have of an element what its table has.
func writeElement(w io.Writer, t *table.Table, element netip.Prefix, now time.Duration) {
	set := Name(t.Name(), element.Addr().Is6())
	if e, ok := entry(t, element); ok {
		writeAdd(w, set, element, e, now)
	} else {
		fmt.Fprintf(w, "del %s %s\n", set, element)
	}
}

func writeAdd(w io.Writer, set string, element netip.Prefix, e table.Entry, now time.Duration) {
	nomatch := ""
	if e.Negated {
		nomatch = " nomatch"
	}
	fmt.Fprintf(w, "add %s %s timeout %d%s\n", set, element, timeout(e, now), nomatch)
}

// timeout is how many seconds an entry stays, 0 for ever.
func timeout(e table.Entry, now time.Duration) int64 {
	if e.Expires == 0 {
		return 0
	}
	left := min(e.Expires-now, config.MaxTTL)
	return max(1, int64((left+time.Second-1)/time.Second))
}

// writeAll are the lines that put a whole table into a set of one family.
func writeAll(w io.Writer, set string, t *table.Table, f family, now time.Duration) {
	for e := range t.Entries {
		if e.Prefix.Addr().Is6() != f.ipv6 {
			continue
		}
		for _, element := range elements(e.Prefix) {
			if of, ok := entry(t, element); ok && of.Prefix == e.Prefix {
				writeAdd(w, set, element, e, now)
			}
		}
	}
}
