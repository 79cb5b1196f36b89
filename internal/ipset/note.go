package ipset

import (
	"maps"
	"net/netip"

	"nfqfw/internal/table"
)

// maxNotes is how many prefixes of a table wait for the kernel; when there are more,
// the set is written anew.
const maxNotes = 50_000

// notes are what the kernel does not know yet of a table.
type notes struct {
	all      bool // and not only the prefixes
	prefixes map[netip.Prefix]struct{}
}

// note takes note of a change. It is called with the tables locked.
func (m *Mirror) note(t *table.Table, p netip.Prefix) {
	m.mu.Lock()
	n := m.followed[t.Name()]
	if n != nil {
		n.add(p)
	}
	m.mu.Unlock()
	if n != nil {
		m.ring()
	}
}

func (n *notes) add(p netip.Prefix) {
	if n.all {
		return
	}
	if n.prefixes == nil {
		n.prefixes = make(map[netip.Prefix]struct{})
	}
	for _, element := range elements(p) {
		n.prefixes[element] = struct{}{}
	}
	if len(n.prefixes) > maxNotes {
		*n = notes{all: true}
	}
}

// ring wakes Run.
func (m *Mirror) ring() {
	select {
	case m.bell <- struct{}{}:
	default: // it has rung already
	}
}

// take takes all notes, by table.
func (m *Mirror) take() map[string]notes {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := make(map[string]notes)
	for name, n := range m.followed {
		if n.all || len(n.prefixes) > 0 {
			taken[name] = *n
			*n = notes{}
		}
	}
	return taken
}

// giveBack notes that sets do not agree with their tables.
func (m *Mirror) giveBack(taken map[string]notes) {
	defer m.ring()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range taken {
		if n := m.followed[name]; n != nil {
			*n = notes{all: true}
		}
	}
}

// follow begins to take notes of tables, and gives those that are new.
func (m *Mirror) follow(names []string) (fresh []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range names {
		if m.followed[name] == nil {
			m.followed[name] = new(notes)
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// forget takes no more notes of tables.
func (m *Mirror) forget(which func(name string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.followed, func(name string, _ *notes) bool { return which(name) })
}
