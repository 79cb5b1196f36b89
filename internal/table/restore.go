package table

import "time"

// Added are the entries of each table that overloads and commands have put in.
func (s *Set) Added() map[string][]Entry {
	added := make(map[string][]Entry)
	for _, t := range s.Tables() {
		for e := range t.Entries {
			if e.Origin != File {
				added[t.name] = append(added[t.name], e)
			}
		}
	}
	return added
}

// Restore puts entries that another set has had into the tables that this one has, as
// far as there is room. What a table says already stays.
func (s *Set) Restore(now time.Duration, added map[string][]Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, list := range added {
		t := s.tables[name]
		if t == nil {
			continue
		}
		for _, e := range list {
			if _, there := living(t, e.Prefix, now); there || !s.room(1, now) {
				continue
			}
			s.insert(t, e.Prefix, value{added: e.Added, expires: e.Expires, origin: e.Origin, negated: e.Negated})
		}
	}
}
