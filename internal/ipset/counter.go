package ipset

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Counter counts what the kernel dropped by an entry.
type Counter struct{ Packets, Bytes uint64 }

// Counters asks the kernel for the counters of a table's elements. A table that is
// not followed has none.
func (m *Mirror) Counters(ctx context.Context, name string) (map[netip.Prefix]Counter, error) {
	m.mu.Lock()
	followed := m.followed[name] != nil
	m.mu.Unlock()
	if !followed {
		return nil, nil
	}
	all := make(map[netip.Prefix]Counter)
	for _, f := range families {
		if err := readCounters(ctx, Name(name, f.ipv6), all); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func readCounters(ctx context.Context, set string, all map[netip.Prefix]Counter) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if p, c, ok := parseCounter(lines.Text()); ok {
				all[p] = c
			}
		}
	}()
	err := run(ctx, nil, w, "save", set)
	w.Close()
	<-done
	return err
}

// parseCounter reads a line such as
// "add NFQFW-abusers-4 192.0.2.0/24 timeout 0 packets 5 bytes 300".
func parseCounter(line string) (p netip.Prefix, c Counter, ok bool) {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "add" {
		return p, c, false
	}
	if a, err := netip.ParseAddr(words[2]); err == nil {
		p = netip.PrefixFrom(a, a.BitLen())
	} else if p, err = netip.ParsePrefix(words[2]); err != nil {
		return p, c, false
	}
	for i := 3; i+1 < len(words); i++ {
		switch words[i] {
		case "packets":
			_, _ = fmt.Sscan(words[i+1], &c.Packets)
		case "bytes":
			_, _ = fmt.Sscan(words[i+1], &c.Bytes)
		}
	}
	return p, c, true
}

// Of is the counter of an entry of a table, whose elements are counted apart.
func Of(all map[netip.Prefix]Counter, p netip.Prefix) (sum Counter) {
	for _, element := range elements(p) {
		sum.Packets += all[element].Packets
		sum.Bytes += all[element].Bytes
	}
	return sum
}
