package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfqfw/conntrack"
	"nfqfw/rules"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata")

// separator is the line between a configuration and what comes of it: its
// errors, or the dumped Config.
const separator = "----------\n"

func TestParseFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { checkFile(t, file) })
	}
}

func checkFile(t *testing.T, file string) {
	input, want := readCase(t, file)
	var got string
	if c, err := Parse([]byte(input)); err != nil {
		got = err.Error() + "\n"
	} else {
		got = dump(c)
	}
	if *update {
		if err := os.WriteFile(file, []byte(input+separator+got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func readCase(tb testing.TB, file string) (input, want string) {
	b, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	input, want, ok := strings.Cut(string(b), separator)
	if !ok {
		tb.Fatalf("%s: no line %q", file, separator)
	}
	return input, want
}

// dump shows a Config as text, defaults included.
func dump(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "control=%s queues=%d when_down=%s states=%d src_nodes=%d table_entries=%d cookies=%s %s %s\n",
		c.Daemon.Control, c.Daemon.Queues, c.Daemon.WhenDown, c.Limits.States, c.Limits.SrcNodes, c.Limits.TableEntries,
		c.Cookies.Mode, percent(c.Cookies.Start), percent(c.Cookies.End))
	if c.Daemon.ControlGroup != "" {
		fmt.Fprintf(&b, "control_group=%s\n", c.Daemon.ControlGroup)
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	fmt.Fprintf(&b, "timeouts %s\n", dumpLifetimes(c.Timeouts))
	for _, t := range c.Tables {
		fmt.Fprintf(&b, "table %s entries=%s file=%q ttl=%s\n", t.Name, dumpPrefixes(t.Entries), t.File, t.TTL)
	}
	for i, r := range c.Rules {
		dumpRule(&b, &r)
		if c.RuleTimeouts[i] != c.Timeouts {
			fmt.Fprintf(&b, "  timeouts %s\n", dumpLifetimes(c.RuleTimeouts[i]))
		}
	}
	return b.String()
}

func dumpRule(b *strings.Builder, r *rules.Rule) {
	fmt.Fprintf(b, "rule %d %q %s on=%q quick=%t %s", r.Number, r.Name, r.Action, r.On, r.Quick, r.State)
	if r.Backlog > 0 {
		fmt.Fprintf(b, " backlog=%d", r.Backlog)
	}
	if len(r.NotOn) > 0 {
		fmt.Fprintf(b, " not on=%q", r.NotOn)
	}
	fmt.Fprintln(b)
	fmt.Fprintf(b, "  from=%s to=%s port=%v\n", dumpAddresses(r.From), dumpAddresses(r.To), r.Ports)
	fmt.Fprintf(b, "  max_src_conn=%d source_track=%s /%d /%d count=%s refuse=%s\n",
		r.MaxSrcConn, r.SourceTrack, r.SourcePrefixV4, r.SourcePrefixV6, r.Count, r.Refuse)
	dumpLimits(b, r)
}

// dumpLimits shows what most rules say nothing of.
func dumpLimits(b *strings.Builder, r *rules.Rule) {
	var words []string
	for _, l := range []struct {
		name  string
		limit uint32
	}{{"max", r.Max}, {"max_src_states", r.MaxSrcStates}, {"max_src_nodes", r.MaxSrcNodes}} {
		if l.limit > 0 {
			words = append(words, fmt.Sprintf("%s=%d", l.name, l.limit))
		}
	}
	if r.MaxSrcConnRate != (rules.Rate{}) {
		words = append(words, "max_src_conn_rate="+r.MaxSrcConnRate.String())
	}
	if r.Overload != "" {
		words = append(words, fmt.Sprintf("overload=%s flush=%s", r.Overload, r.Flush))
	}
	if r.CountOnly {
		words = append(words, "count only")
	}
	if len(words) > 0 {
		fmt.Fprintf(b, "  %s\n", strings.Join(words, " "))
	}
}

func dumpAddresses(a rules.Addresses) string {
	text := dumpPrefixes(a.Prefixes)
	for _, ref := range a.Tables {
		text += fmt.Sprintf("+<%s>", ref.Name)
		if ref.Negated {
			text += "negated"
		}
	}
	return text
}

func dumpPrefixes(l rules.Prefixes) string {
	var words []string
	for _, p := range l {
		sign := ""
		if p.Negated {
			sign = "!"
		}
		words = append(words, sign+p.Prefix.String())
	}
	return fmt.Sprint(words)
}

func dumpLifetimes(l conntrack.Lifetimes) string {
	var words []string
	for c, d := range l.Timeouts {
		words = append(words, fmt.Sprintf("%s=%s", conntrack.Timeout(c), d))
	}
	if l.OwnScaling {
		words = append(words, "own")
	}
	words = append(words, fmt.Sprintf("adaptive=%d-%d", l.Start, l.End))
	if l.SrcTrack > 0 {
		words = append(words, fmt.Sprintf("src.track=%s", l.SrcTrack))
	}
	return strings.Join(words, " ")
}

func TestDefaultIsAnEmptyFile(t *testing.T) {
	c, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dump(Default()), dump(c)); diff != "" {
		t.Errorf("-default +parsed:\n%s", diff)
	}
}

// What [syncookies] says, and the error it makes; none if empty.
func TestSyncookies(t *testing.T) {
	for _, tt := range []struct{ lines, want string }{
		{`start = "50%"`, ""},
		{"start = \"100%\"\nend = \"0.5%\"", ""},
		{`start = "0%"`, "syncookies: start: 0% is out of range (more than 0%, at most 100%)"},
		{`start = 25`, "syncookies: start: want a percentage (such as \"25%\"), got the number 25"},
		{`start = "25"`, `syncookies: start: "25" is not a percentage (such as "25%")`},
		{`start = "NaN%"`, `syncookies: start: "NaN%" is not a percentage (such as "25%")`},
		{`start = "12%"`, "syncookies: end: 12% is not less than start, 12%: what was switched on would not go off"},
		{`end = "30%"`, "syncookies: end: 30% is not less than start, 25%: what was switched on would not go off"},
	} {
		_, err := Parse([]byte("[syncookies]\n" + tt.lines + "\n"))
		if got := fmt.Sprint(err); err != nil && got != tt.want || err == nil && tt.want != "" {
			t.Errorf("%s: got %v, want %s", tt.lines, err, tt.want)
		}
	}
}

// The value of one key of a rule, and the error it makes; none if empty.
func TestRuleValues(t *testing.T) {
	long := strings.Repeat("x", 200)
	tests := []struct{ key, want string }{
		{`port = [1, 65535, "1", "65535", "1-65535", "22-22", "http"]`, ""},
		{`port = [0]`, "0 is not a port (1-65535)"},
		{`port = [70000]`, "70000 is not a port (1-65535)"},
		{`port = [-1]`, "-1 is not a port (1-65535)"},
		{`port = [9223372036854775807]`, "9223372036854775807 is not a port (1-65535)"},
		{`port = ["99999999999999999999"]`, `"99999999999999999999" is not a port (1-65535)`},
		{`port = ["0-10"]`, `"0" is not a port (1-65535)`},
		{`port = ["10-"]`, `"" is not a port (1-65535)`},
		{`port = ["-"]`, `"" is not a port (1-65535)`},
		{`port = ["1-2-3"]`, `"2-3" is not a port (1-65535)`},
		{`port = ["20-10"]`, `"20-10" is a range from its end to its start`},
		{`port = ["htpp"]`, `"htpp" is not a port (1-65535), a range (8000-8010) or a known service; did you mean http?`},
		{`port = [80.5]`, "want a port, got the float 80.5"},
		{`port = [nan]`, "want a port, got the float NaN"},
		{`port = [[80]]`, "want a port, got a list"},
		{`port = 80`, `want a list of ports (such as ["http", 443, "8000-8010"]), got the number 80`},
		{`port = []`, "is empty; leave the key out for any"},
		{`on = ["eth0", "br-lan.7", "wg0@x"]`, ""},
		{`on = ["!lo"]`, ""},
		{`on = ["!eth0", "!eth1"]`, ""},
		{`on = ["eth0", "!eth1"]`, "names interfaces with ! beside others; the others are enough"},
		{`on = ["!"]`, `"!" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = ["!!eth0"]`, `"!!eth0" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = ["lo"]`, `"lo": the loopback interface is left alone, no rule can be on it`},
		{`on = ["eth+"]`, `"eth+": patterns are not supported; name each interface`},
		{`on = ["0123456789abcdef"]`, `"0123456789abcdef" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = ["a b"]`, `"a b" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = ["a/b"]`, `"a/b" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = [".."]`, `".." is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = ["a\nb"]`, `"a\nb" is not the name of an interface (1-15 letters, digits and signs)`},
		{`on = [1]`, "want the name of an interface, got the number 1"},
		{`from = ["192.0.2.1", "2001:db8::/32", "! 192.0.2.0/24"]`, ""},
		{`from = ["192.0.2.256"]`, `"192.0.2.256" is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)`},
		{`from = ["192.0.2.0/33"]`, `"192.0.2.0/33" is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)`},
		{`from = ["example.com"]`, `"example.com" is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)`},
		{`from = ["fe80::1%eth0"]`, `"fe80::1%eth0" has a zone; name the interface with on`},
		{`from = ["::ffff:192.0.2.0/90"]`, `"::ffff:192.0.2.0/90" holds more than the IPv4 addresses it is written with`},
		{`from = ["!any"]`, `"!any" holds no address`},
		{`from = ["10.0.0.0/8", "!10.1.0.0/8"]`, "10.0.0.0/8 is in the list, with ! and without"},
		{`from = ["!<abusers>"]`, `"!<abusers>": there is no [table.abusers]`},
		{`from = [80]`, "want a prefix in quotes, got the number 80"},
		{`max_src_conn = 4294967295`, ""},
		{`max_src_conn = 0`, "0 is out of range (1-4294967295)"},
		{`max_src_conn = 4294967296`, "4294967296 is out of range (1-4294967295)"},
		{`max_src_conn = "ten"`, `want a whole number, got the string "ten"`},
		{`max_src_conn = inf`, "want a whole number, got the float +Inf"},
		{`max_src_conn = true`, "want a whole number, got true"},
		{`max_src_conn = 2026-01-01`, "want a whole number, got a date or time"},
		{`max_src_conn = {}`, "want a whole number, got a table"},
		{`source_prefix_v4 = 33`, "33 is out of range (1-32)"},
		{`source_prefix_v6 = 129`, "129 is out of range (1-128)"},
		{`source_track = "host"`, `"host" is not "rule" or "global"`},
		{`count = "state"`, `"state" is not "server-established" or "states"; did you mean states?`},
		{`refuse = "rst"`, `"rst" is not "reset" or "drop"`},
		{`max_src_conn_rate = "100/10s"`, ""},
		{`max_src_conn_rate = "100/10"`, ""},
		{`max_src_conn_rate = "1/1ms"`, ""},
		{`max_src_conn_rate = "1000000/87600h"`, ""},
		{`max_src_conn_rate = 100`, "want a string, got the number 100"},
		{`max_src_conn_rate = ""`, `"" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "100"`, `"100" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "/10s"`, `"/10s" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "1.5/10s"`, `"1.5/10s" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "+1/10s"`, `"+1/10s" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "99999999999999999999/1s"`, `"99999999999999999999/1s" is not a rate (such as "100/10s": 100 connections in 10 seconds)`},
		{`max_src_conn_rate = "0/10s"`, `"0/10s": 0 connections are out of range (1-1000000)`},
		{`max_src_conn_rate = "1000001/10s"`, `"1000001/10s": 1000001 connections are out of range (1-1000000)`},
		{`max_src_conn_rate = "100/"`, `"100/": "" is not a duration (such as "90s", "15m", "24h", or a number of seconds)`},
		{`max_src_conn_rate = "100/10s/2"`, `"100/10s/2": "10s/2" is not a duration (such as "90s", "15m", "24h", or a number of seconds)`},
		{`max_src_conn_rate = "100/0s"`, `"100/0s": a duration must be more than 0`},
		{`max_src_conn_rate = "100/-1s"`, `"100/-1s": a duration must be more than 0`},
		{`max_src_conn_rate = "100/999us"`, `"100/999us": a window must be 1ms or more`},
		{`max_src_conn_rate = "100/87601h"`, `"100/87601h": a duration must be 10 years (87600h) or less`},
		{`max = 0`, "0 is out of range (1-4294967295)"},
		{`max_src_states = 4294967296`, "4294967296 is out of range (1-4294967295)"},
		{`max_src_nodes = "few"`, `want a whole number, got the string "few"`},
		{`enforce = "no"`, `want true or false, got the string "no"`},
		{`enforce = false`, ""},
		{`state = "adaptive"`, ""},
		{`state = "synprox"`, `"synprox" is not "keep", "synproxy" or "adaptive"; did you mean synproxy?`},
		{`backlog = 511`, `has a meaning with state = "adaptive" only; remove the key`},
		{`quick = 1`, "want true or false, got the number 1"},
		{`name = ""`, "is empty; leave the key out for a name by number"},
		{`name = "a\u0007b"`, `"a\ab" holds a control character or a quote, or begins or ends with a space`},
		{`name = "` + long + `"`, "has 200 bytes; at most 63 are allowed"},
		{`timeouts = 3`, "want a table, got the number 3"},
	}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			key, _, _ := strings.Cut(tt.key, " ")
			want := ""
			if tt.want != "" {
				want = "rule 1: " + key + ": " + tt.want
			}
			_, err := Parse([]byte("[[rule]]\n" + tt.key + "\n"))
			if got := errorText(err); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestDurations(t *testing.T) {
	tests := []struct {
		value string
		want  time.Duration
		err   string
	}{
		{`"90s"`, 90 * time.Second, ""},
		{`"1h30m"`, 90 * time.Minute, ""},
		{`90`, 90 * time.Second, ""},
		{`"87600h"`, maxDuration, ""},
		{`315360000`, maxDuration, ""},
		{`0`, 0, "a duration must be more than 0"},
		{`-9223372036854775808`, 0, "a duration must be more than 0"},
		{`"-1s"`, 0, "a duration must be more than 0"},
		{`315360001`, 0, errLongDuration.Error()},
		{`9223372036854775807`, 0, errLongDuration.Error()},
		{`"87601h"`, 0, errLongDuration.Error()},
		{`"90"`, 0, `"90" is not a duration (such as "90s", "15m", "24h", or a number of seconds)`},
		{`1.5`, 0, `want a duration (such as "90s", or a number of seconds), got the float 1.5`},
	}
	for _, tt := range tests {
		t.Run(tt.value, func(t *testing.T) {
			c, err := Parse([]byte("[timeouts]\n\"tcp.closed\" = " + tt.value))
			want := ""
			if tt.err != "" {
				want = "timeouts: tcp.closed: " + tt.err
			}
			if got := errorText(err); got != want {
				t.Fatalf("\n got %s\nwant %s", got, want)
			}
			if err == nil && c.Timeouts.Timeouts[conntrack.TCPClosed] != tt.want {
				t.Errorf("got %s, want %s", c.Timeouts.Timeouts[conntrack.TCPClosed], tt.want)
			}
		})
	}
}

func TestEveryPreset(t *testing.T) {
	for _, name := range presets {
		c, err := Parse([]byte("timeouts.optimization = \"" + name + "\""))
		if err != nil {
			t.Fatal(err)
		}
		if want, ok := conntrack.Optimization(name); !ok || c.Timeouts.Timeouts != want {
			t.Errorf("%s: got %v, want %v", name, c.Timeouts, want)
		}
	}
}

func TestEveryErrorIsTold(t *testing.T) {
	const n = 3000
	_, err := Parse([]byte(strings.Repeat("[[rule]]\nport = [0, 70000]\nnmae = 1\n", n)))
	lines := strings.Split(errorText(err), "\n")
	if len(lines) != 3*n {
		t.Fatalf("%d lines, want %d", len(lines), 3*n)
	}
	if want := `rule 3000: nmae: unknown key; did you mean name?`; lines[3*n-1] != want {
		t.Errorf("last line %q, want %q", lines[3*n-1], want)
	}
}

// Whatever the bytes: a config or an error, and a config keeps its promises.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		input, _ := readCase(f, file)
		f.Add([]byte(input))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v and error %v", c, err)
		}
		if err != nil {
			checkErrorText(t, err.Error())
			return
		}
		checkConfig(t, c)
	})
}

func checkErrorText(t *testing.T, text string) {
	for line := range strings.SplitSeq(text, "\n") {
		if place, _, ok := strings.Cut(line, ": "); !ok || place == "" {
			t.Errorf("line without a place: %q", line)
		}
	}
}

func checkConfig(t *testing.T, c *Config) {
	list := c.Rules
	if len(list) != len(c.RuleTimeouts) {
		t.Fatalf("%d rules, timeouts for %d", len(list), len(c.RuleTimeouts))
	}
	if c.Limits.States < 1 || c.Limits.SrcNodes < 1 || c.Daemon.Queues < 0 || c.Daemon.Queues > MaxQueues {
		t.Errorf("out of range: %+v %+v", c.Limits, c.Daemon)
	}
	names := make(map[string]bool)
	for i, r := range list {
		if r.Number != i+1 || r.Name == "" || names[r.Name] {
			t.Errorf("rule %d: number %d, name %q", i+1, r.Number, r.Name)
		}
		names[r.Name] = true
		for _, p := range r.Ports {
			if p.First < 1 || p.First > p.Last {
				t.Errorf("rule %d: ports %v", i+1, p)
			}
		}
		checkRuleLimits(t, c, &r)
		checkLifetimes(t, c.RuleTimeouts[i])
	}
}

func checkRuleLimits(t *testing.T, c *Config, r *rules.Rule) {
	if rate := r.MaxSrcConnRate; rate != (rules.Rate{}) && (rate.Count < 1 || rate.Window < minRateWindow) {
		t.Errorf("rule %d: rate %s", r.Number, rate)
	}
	if c.RuleTimeouts[r.Number-1].SrcTrack < r.MaxSrcConnRate.Window {
		t.Errorf("rule %d: a source is forgotten before the window of its rate is over", r.Number)
	}
	isIt := func(t Table) bool { return t.Name == r.Overload }
	if r.Overload != "" && !slices.ContainsFunc(c.Tables, isIt) || r.Overload == "" && r.Flush != rules.FlushNone {
		t.Errorf("rule %d: overload %q, flush %s", r.Number, r.Overload, r.Flush)
	}
}

func checkLifetimes(t *testing.T, l conntrack.Lifetimes) {
	for class, d := range l.Timeouts {
		if d <= 0 || d > maxDuration {
			t.Errorf("%s is %s", conntrack.Timeout(class), d)
		}
	}
	if l.SrcTrack < 0 || l.SrcTrack > maxDuration {
		t.Errorf("src.track is %s", l.SrcTrack)
	}
	if a := l.Scaling; a != (conntrack.Scaling{}) && (a.Start < 0 || a.Start >= a.End) {
		t.Errorf("adaptive.start %d, adaptive.end %d", a.Start, a.End)
	}
}
