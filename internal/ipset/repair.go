package ipset

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"nfqfw/internal/table"
)

// Repair writes those sets anew that somebody has destroyed, or taken entries out of,
// and says of which tables.
func (m *Mirror) Repair(ctx context.Context) (tables []string, err error) {
	m.kernel.Lock()
	defer m.kernel.Unlock()
	if !m.follows() {
		return nil, nil
	}
	there, err := sizes(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range m.short(there) {
		if err := m.rewrite(ctx, name); err != nil {
			return tables, fmt.Errorf("table %s: %w", name, err)
		}
		tables = append(tables, name)
	}
	return tables, nil
}

// short are the tables of which the sets have too few entries. An entry of length 0
// makes two elements, so that one other may go unnoticed beside it. A table that the kernel is
// yet to be told something of is looked at the next time.
func (m *Mirror) short(there map[string]int) (names []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, n := range m.followed {
		t, err := m.tables.Table(name)
		if err != nil || n.all || len(n.prefixes) > 0 {
			continue
		}
		size4, has4 := there[Name(name, false)]
		size6, has6 := there[Name(name, true)]
		if !has4 || !has6 || size4+size6 < t.Len() && size4+size6 < lasting(t, m.now()) {
			names = append(names, name)
		}
	}
	return names
}

// follows says whether there is a table to follow.
func (m *Mirror) follows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.followed) > 0
}

// lasting is how many entries of a table the kernel must still have: of one that runs
// out just now nobody knows.
func lasting(t *table.Table, now time.Duration) (n int) {
	for e := range t.Entries {
		if e.Expires == 0 || e.Expires > now+time.Second {
			n++
		}
	}
	return n
}

// sizes are the numbers of elements of our sets.
func sizes(ctx context.Context) (map[string]int, error) {
	var out bytes.Buffer
	if err := run(ctx, nil, &out, "list", "-terse"); err != nil {
		return nil, err
	}
	return parseSizes(out.String()), nil
}

func parseSizes(out string) map[string]int {
	there := make(map[string]int)
	set := ""
	for line := range strings.Lines(out) {
		word, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		var n int
		switch {
		case word == "Name":
			set = value
		case word == "Number of entries" && strings.HasPrefix(set, prefix):
			if _, err := fmt.Sscan(value, &n); err == nil {
				there[set] = n
			}
		}
	}
	return there
}
