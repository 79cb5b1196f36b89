package rules

import (
	"fmt"
	"net/netip"
	"testing"
)

// countingTable counts what it is asked.
type countingTable struct {
	fakeTable
	asked int
}

func (t *countingTable) Contains(a netip.Addr) bool {
	t.asked++
	return t.fakeTable.Contains(a)
}

// However many rules name a table, a match asks it once about each end.
func TestTableIsAskedOnce(t *testing.T) {
	table := &countingTable{fakeTable: fakeTable{}}
	var list []Rule
	for range 100 {
		list = append(list, Rule{Name: "r", From: Addresses{Tables: []TableRef{{Name: "t"}}}})
		list = append(list, Rule{Name: "r", To: Addresses{Tables: []TableRef{{Name: "t"}}}})
	}
	set := New(list, func(string) Table { return table })
	if got := nameOf(set.Match("eth0", connection("198.51.100.7 > 192.0.2.10:80"))); got != none {
		t.Errorf("rule %s of an empty table", got)
	}
	if table.asked != 2 {
		t.Errorf("asked %d times, want once about each end", table.asked)
	}
}

// A rule that is not about the packet asks nothing.
func TestTableIsNotAskedInVain(t *testing.T) {
	table := &countingTable{fakeTable: fakeTable{}}
	named := Addresses{Tables: []TableRef{{Name: "t"}}}
	set := New([]Rule{
		{Name: "port", Ports: []PortRange{port(443)}, From: named},
		{Name: "interface", On: []string{"eth1"}, From: named},
		{Name: "prefix", To: addresses("10.0.0.0/8"), From: named},
		{Name: "taken out", From: Addresses{Prefixes: prefixes("!198.51.100.7/32"), Tables: named.Tables}},
		{Name: "last"},
	}, func(string) Table { return table })
	if got := nameOf(set.Match("eth0", connection("198.51.100.7 > 192.0.2.10:80"))); got != "last" || table.asked != 0 {
		t.Errorf("rule %s after %d questions, want the last after none", got, table.asked)
	}
}

// What is remembered of tables has room for 64; those after answer as well.
func TestManyTables(t *testing.T) {
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
	var list []Rule
	tables := make(map[string]Table)
	for i := range 200 {
		name := fmt.Sprint("t", i)
		tables[name] = fakeTable{address(i): true}
		list = append(list, Rule{Name: name, From: Addresses{Tables: []TableRef{{Name: name}}}})
	}
	set := New(list, func(name string) Table { return tables[name] })
	for i := range 200 {
		want := fmt.Sprint("t", i)
		if got := nameOf(set.Match("eth0", connection(address(i).String()+" > 192.0.2.10:80"))); got != want {
			t.Errorf("from %s: rule %s, want %s", address(i), got, want)
		}
	}
}
