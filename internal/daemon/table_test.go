package daemon

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/table"
	"nfqfw/rules"
)

const tableFile = `
[table.abusers]
entries = ["192.0.2.0/24", "!192.0.2.1"]
ttl     = "1h"
[table.friends]
[[rule]]
name   = "closed"
action = "block"
refuse = "reset"
from   = ["<abusers>"]
`

// asks runs a command on a table and gives its items as text, or the error.
func (d *daemon) asks(t *testing.T, name, command string, ttl *float64, addresses ...string) string {
	t.Helper()
	raw, err := json.Marshal(control.TableArgs{Table: name, Command: command, Addresses: addresses, TTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = d.answerTable(t.Context(), raw, func(item any) error {
		switch item := item.(type) {
		case *control.TableDone:
			return item.WriteText(&out)
		case *control.TableEntry:
			return item.WriteText(&out, 0)
		}
		return fmt.Errorf("%T", item)
	})
	if err != nil {
		return err.Error()
	}
	return out.String()
}

func TestTableCommands(t *testing.T) {
	d := testDaemon(t, tableFile)
	minute := 60.0
	for _, tt := range []struct {
		table, command, addresses, want string
	}{
		{"abusers", "show", "", "   192.0.2.0/24\n  !192.0.2.1\n"},
		{"abusers", "add", "198.51.100.7 2001:db8::7/64 198.51.100.7", "2/3 addresses added.\n"},
		{"abusers", "show", "", "   192.0.2.0/24\n  !192.0.2.1\n   198.51.100.7\n   2001:db8::/64\n"},
		{"abusers", "test", "198.51.100.7 192.0.2.1 192.0.2.2", "2/3 addresses match.\n"},
		{"abusers", "test", "192.0.2.0/24 !192.0.2.1", "table: 192.0.2.0/24: only an address can be tested\ntable: 192.0.2.1/32: only an address can be tested"},
		{"abusers", "add", "x 192.0.2.300 10.0.0.1", "table: \"x\" is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)\n" +
			"table: \"192.0.2.300\" is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)"},
		{"abusers", "add", "10.0.0.1 192.0.2.1", "table abusers: 192.0.2.1 is in the table with !; delete that first"},
		{"abusers", "test", "10.0.0.1", "0/1 addresses match.\n"},
		{"abusers", "delete", "192.0.2.1 !192.0.2.1 192.0.2.7", "1/3 addresses deleted.\n"},
		{"abusers", "flush", "", "3 addresses deleted.\n"},
		{"abusers", "show", "", ""},
		{"abuser", "show", "", `table: no table "abuser"; there are abusers, friends`},
		{"abusers", "zero", "", `table: "zero": the daemon has no such command; is it older than the command line?`},
	} {
		if got := d.asks(t, tt.table, tt.command, nil, strings.Fields(tt.addresses)...); got != tt.want {
			t.Errorf("table %s %s %s:\n got %s\nwant %s", tt.table, tt.command, tt.addresses, got, tt.want)
		}
	}
	d.asks(t, "abusers", "add", nil, "10.0.0.1")
	d.asks(t, "abusers", "add", &minute, "10.0.0.2")
	d.asks(t, "friends", "add", nil, "10.0.0.3")
	for address, want := range map[string]float64{"abusers 10.0.0.1": 3600, "abusers 10.0.0.2": 60, "friends 10.0.0.3": 0} {
		name, a, _ := strings.Cut(address, " ")
		tab, err := d.tables.Table(name)
		if err != nil {
			t.Fatal(err)
		}
		e, _ := tab.Entry(netip.MustParsePrefix(a + "/32"))
		item := d.tableEntry(e, d.now())
		switch {
		case want == 0 && item.Expires != nil, want != 0 && (item.Expires == nil || *item.Expires > want || *item.Expires < want-5):
			t.Errorf("%s expires in %v, want %v", address, item.Expires, want)
		}
	}
}

// What is in a table decides about the next packet.
func TestTableDecides(t *testing.T) {
	d := testDaemon(t, tableFile)
	syn := &packet.Packet{
		Tuple: packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:1000"), netip.MustParseAddrPort("192.0.2.10:80")), Flags: packet.SYN,
	}
	var v engine.Decision
	d.engine.Handle(d.now(), syn, &v)
	if v.Verdict == packet.Drop {
		t.Errorf("dropped: %s", v.Reason)
	}
	x := &executor{entries: &entries{daemon: d}}
	x.overload(&engine.Overload{Table: "abusers", Prefix: netip.MustParsePrefix("198.51.100.0/24"), Rule: "web", Flush: rules.FlushRule})
	d.engine.Handle(d.now(), syn, &v)
	if v.Verdict != packet.Drop || v.Reason != packet.ReasonBlock {
		t.Errorf("an overloading source: %v, %s", v.Verdict, v.Reason)
	}
	if taken := d.flushes.take(); len(taken) != 1 {
		t.Errorf("%v is to be flushed", taken)
	}
}

// A reload that cannot be leaves the tables as they are.
func TestSetTables(t *testing.T) {
	d := testDaemon(t, tableFile)
	if _, err := d.tables.Add(d.now(), "abusers", netip.MustParsePrefix("10.0.0.1/32"), table.Overload); err != nil {
		t.Fatal(err)
	}
	next := testDaemon(t, "[table.others]\nentries = [\"10.0.0.2\"]\n[limits]\ntable_entries = 1\n")
	undo, err := d.setTables(next.config.Load())
	if err != nil || len(d.tables.Tables()) != 1 {
		t.Fatal(err)
	}
	undo()
	if got := d.asks(t, "abusers", "show", nil); got != "   10.0.0.1\n   192.0.2.0/24\n  !192.0.2.1\n" {
		t.Error(got)
	}
	bad := *next.config.Load()
	bad.Tables[0].File = "/nonexistent/others"
	if _, err := d.setTables(&bad); fmt.Sprint(err) != "table.others: file /nonexistent/others: no such file or directory" {
		t.Error(err)
	}
}

func TestListTables(t *testing.T) {
	d := testDaemon(t, tableFile)
	var got []string
	err := d.listTables(t.Context(), nil, func(item any) error {
		got = append(got, fmt.Sprint(*item.(*control.Table)))
		return nil
	})
	if want := "{abusers 2 3600} {friends 0 0}"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
}
