package rules

import "nfqfw/internal/packet"

// tables are those that the rules name, each once.
type tables struct {
	list  []Table
	known map[string]int // place in list; -1: there is none of that name
	find  func(string) Table
}

// place is where a table is in the list, or -1.
func (t *tables) place(name string) int {
	if i, ok := t.known[name]; ok {
		return i
	}
	i := -1
	if table := t.find(name); table != nil {
		i = len(t.list)
		t.list = append(t.list, table)
	}
	t.known[name] = i
	return i
}

// asking is what is left to ask for Addresses of an address that is among their
// candidates.
type asking struct {
	sure    [families]toggles // addresses that a prefix holds
	in, out []int             // tables
	always  bool              // no table that is not negated is named
}

func (t *tables) asking(a *Addresses) asking {
	q := asking{always: !a.namesTable()}
	for _, ref := range a.Tables {
		switch i := t.place(ref.Name); {
		case i < 0: // holds nothing
		case ref.Negated:
			q.out = append(q.out, i)
		default:
			q.in = append(q.in, i)
		}
	}
	for f := range families {
		if !q.always {
			q.sure[f] = a.Prefixes.toggles(f, false)
		}
	}
	return q
}

// end is an end of a connection, and what tables have answered about it. Many rules
// may name a table; it is asked once, if it is one of the first 64.
type end struct {
	point
	family
	addr        packet.Addr
	asked, held uint64 // a bit for each table
}

func newEnd(a packet.Addr) end {
	e := end{point: addressPoint(a), family: inet6, addr: a}
	if a.Is4() {
		e.family = inet
	}
	return e
}

// in says whether a table holds the address.
func (e *end) in(list []Table, table int) bool {
	bit := uint64(1) << table // 0 from the 65th table on: nothing is remembered
	if e.asked&bit != 0 {
		return e.held&bit != 0
	}
	held := list[table].Contains(e.addr.Netip())
	e.asked |= bit
	if held {
		e.held |= bit
	}
	return held
}

func (e *end) inAny(list []Table, tables []int) bool {
	for _, table := range tables {
		if e.in(list, table) {
			return true
		}
	}
	return false
}

// holds says whether the addresses are the end's.
func (q *asking) holds(e *end, list []Table) bool {
	if e.inAny(list, q.out) {
		return false
	}
	return q.always || q.sure[e.family].holds(e.point) || e.inAny(list, q.in)
}
