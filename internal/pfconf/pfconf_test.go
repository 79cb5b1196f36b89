package pfconf

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfqfw/internal/config"
	"nfqfw/internal/packet"
	"nfqfw/rules"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

// golden compares with a file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(read(t, file), got); diff != "" {
		t.Errorf("%s: -want +got:\n%s", file, diff)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// eachFile runs a test for each file of a pattern, by the name without its end.
func eachFile(t *testing.T, pattern string, test func(t *testing.T, base string)) {
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files: %v", pattern, err)
	}
	for _, file := range files {
		base := strings.TrimSuffix(file, filepath.Ext(file))
		t.Run(filepath.Base(base), func(t *testing.T) { test(t, base) })
	}
}

func mustImport(t *testing.T, src string) (*Result, *config.Config) {
	t.Helper()
	r, err := Import([]byte(src))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(r.TOML)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.TOML)
	}
	return r, c
}

func TestFiles(t *testing.T) {
	eachFile(t, "testdata/*.conf", func(t *testing.T, base string) {
		r, _ := mustImport(t, read(t, base+".conf"))
		golden(t, base+".toml", string(r.TOML))
		line := 0
		for _, n := range r.Notes {
			if n.Line < line || !strings.Contains(string(r.TOML), "\n# "+n.Text+"\n") {
				t.Errorf("%s: out of order, or not in the configuration", n)
			}
			line = n.Line
		}
		for _, a := range r.Addresses {
			if !strings.Contains(string(r.TOML), "# "+a.Note().Text+"\n[table."+a.Table+"]\n") {
				t.Errorf("%v: no table for it", a)
			}
		}
	})
}

// TestErrors has every error of a file in the order of its lines.
func TestErrors(t *testing.T) {
	eachFile(t, "testdata/error/*.conf", func(t *testing.T, base string) {
		r, err := Import([]byte(read(t, base+".conf")))
		if err == nil {
			t.Fatalf("no error:\n%s", r.TOML)
		}
		golden(t, base+".txt", err.Error()+"\n")
	})
}

// TestMatches asks the rules of each file about connections. A line of a .match file is
// interface, client, server and what is to be: none, or what the rule does and its name.
// A .tables file says what is in the tables beside what the ruleset says.
func TestMatches(t *testing.T) {
	eachFile(t, "testdata/*.match", func(t *testing.T, base string) {
		_, c := mustImport(t, read(t, base+".conf"))
		set := rules.New(c.Rules, tables(t, base, c))
		for line := range strings.Lines(read(t, base+".match")) {
			words := strings.Fields(line)
			in, client, server := words[0], netip.MustParseAddr(words[1]), netip.MustParseAddrPort(words[2])
			if in == "local" {
				in = ""
			}
			r := set.Match(in, packet.Tuple{
				Src: packet.AddrFrom(client), SrcPort: 40000, Dst: packet.AddrFrom(server.Addr()), DstPort: server.Port(),
			})
			if want := strings.Join(words[3:], " "); !does(r, want) {
				t.Errorf("%s: got %s", strings.TrimSpace(line), done(r))
			}
		}
	})
}

func does(r *rules.Rule, want string) bool {
	got := done(r)
	action, _, _ := strings.Cut(got, " ")
	if rest, blocks := strings.CutPrefix(want, "block "); blocks && (action == "drop" || action == "reset") {
		return action+" "+rest == got
	}
	return want == got
}

// done is what the rule does with a connection, and its name.
func done(r *rules.Rule) string {
	switch {
	case r == nil:
		return "none"
	case r.Action == rules.Pass:
		return "pass " + r.Name
	}
	return r.Refuse.String() + " " + r.Name
}

// fixed is a table that does not change.
type fixed rules.Prefixes

func (f fixed) Contains(a netip.Addr) bool { return len(f) > 0 && rules.Prefixes(f).Contains(a) }

func tables(t *testing.T, base string, c *config.Config) func(string) rules.Table {
	all := make(map[string]fixed)
	for _, table := range c.Tables {
		all[table.Name] = fixed(table.Entries)
	}
	if _, err := os.Stat(base + ".tables"); err == nil {
		for line := range strings.Lines(read(t, base+".tables")) {
			name, prefix, _ := strings.Cut(strings.TrimSpace(line), " ")
			if _, known := all[name]; !known {
				t.Errorf("no table %s", name)
			}
			all[name] = append(all[name], rules.Prefix{Prefix: netip.MustParsePrefix(prefix)})
		}
	}
	return func(name string) rules.Table {
		table, known := all[name]
		if !known {
			t.Errorf("no table %s", name)
		}
		return table
	}
}

// TestSeed has the rule of a thread in which pf's limit locked honest clients out do
// what was asked for there.
func TestSeed(t *testing.T) {
	_, c := mustImport(t, read(t, "testdata/seed.conf"))
	if len(c.Rules) != 1 {
		t.Fatalf("%d rules", len(c.Rules))
	}
	want := rules.Rule{
		Number: 1, Name: "http", Action: rules.Pass, On: []string{"em0"}, Ports: []rules.PortRange{{First: 80, Last: 80}},
		State: rules.Synproxy, MaxSrcConn: 10, SourceTrack: rules.TrackRule, SourcePrefixV4: 32, SourcePrefixV6: 64,
		Count: rules.CountServerEstablished, Refuse: rules.RefuseReset,
	}
	if diff := cmp.Diff(want, c.Rules[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestNamesStay has rules keep their names when another one comes.
func TestNamesStay(t *testing.T) {
	src := read(t, "testdata/ports.conf") + read(t, "testdata/order.conf")
	_, before := mustImport(t, src)
	_, after := mustImport(t, "pass in on em9 proto tcp to 203.0.113.99 port 9999\n"+src)
	for i, r := range before.Rules {
		if got := after.Rules[i+1].Name; got != r.Name {
			t.Errorf("rule %d is %q, and %q behind another one", i+1, r.Name, got)
		}
	}
}

// TestAtSource has messages about the configuration name the line they come from.
func TestAtSource(t *testing.T) {
	r, err := Import([]byte("set timeout tcp.first 0\ntable <a> { 10.0.0.1, !10.0.0.1 }\nset limit states 0\n" +
		"\npass in on em0 proto tcp to { 10.0.0.1, <b> } \\\n  port { 80 443 } keep state (max 5)\nblock in on x234567890123456\n"))
	if err != nil {
		t.Fatal(err)
	}
	for message, want := range map[string]string{
		"timeouts: tcp.first: why":    "line 1: timeouts: tcp.first: why",
		"timeouts: adaptive.end: why": "line 1: timeouts: adaptive.end: why",
		"limits: states: why":         "line 3: limits: states: why",
		"table.a: entries: why":       "line 2: table.a: entries: why",
		"table: a: why":               "line 2: table: a: why",
		"table.b: why":                "line 5: table.b: why",
		`rule 4 ("x: y"): port: why`:  `line 5: rule 4 ("x: y"): port: why`,
		`rule 5: on: why`:             `line 7: rule 5: on: why`,
		`rule 6: on: why`:             `rule 6: on: why`,
		"line 3, column 4: why":       "line 3, column 4: why",
		"why":                         "why",
	} {
		if got := r.AtSource(message); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestCover has the prefixes of a range hold its addresses and no others.
func TestCover(t *testing.T) {
	for _, tt := range []struct {
		first, last string
		want        int // prefixes
	}{
		{"10.0.0.1", "10.0.0.1", 1},
		{"10.0.0.0", "10.0.0.255", 1},
		{"10.0.0.1", "10.0.0.6", 4},
		{"0.0.0.0", "255.255.255.255", 1},
		{"255.255.255.254", "255.255.255.255", 1},
		{"0.0.0.1", "255.255.255.254", 62},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1},
		{"2001:db8::fffe", "2001:db8::1:1", 2},
	} {
		first, last := netip.MustParseAddr(tt.first), netip.MustParseAddr(tt.last)
		list := cover(first, last)
		if len(list) != tt.want {
			t.Errorf("%s - %s: %v", tt.first, tt.last, list)
		}
		next := first
		for _, p := range list {
			if p.Addr() != next {
				t.Errorf("%s - %s: %v begins too early or too late", tt.first, tt.last, p)
			}
			next = lastOf(p).Next()
		}
		if end := lastOf(list[len(list)-1]); end != last {
			t.Errorf("%s - %s: ends at %v", tt.first, tt.last, end)
		}
	}
}

// TestLongList has a list be as long as it is written, whatever lists may expand to.
func TestLongList(t *testing.T) {
	var b strings.Builder
	b.WriteString("block in from {\n")
	for i := range maxElements + 1 {
		fmt.Fprintf(&b, "10.%d.%d.%d\n", i>>16, i>>8&0xff, i&0xff)
	}
	b.WriteString("}\n")
	r, err := Import([]byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(r.TOML), "\n  \"10."); n != maxElements+1 {
		t.Errorf("%d addresses", n)
	}
}
