package daemon

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
)

// openFrom has the engine see a SYN.
func openFrom(d *daemon, src, dst string) *engine.Decision {
	p := packet.Packet{
		Tuple: packet.TupleFrom(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)),
		Flags: packet.SYN, Seq: 100, Window: 64240,
	}
	var decision engine.Decision
	d.engine.Handle(d.now(), &p, &decision)
	d.remember(d.now(), p.Tuple, &decision.Refusal)
	return &decision
}

const threeRules = `
[[rule]]
name = "web"
port = [80]
state = "keep"
[[rule]]
name = "tls"
port = [443]
state = "keep"
[[rule]]
name = "bad"
action = "block"
from = ["203.0.113.0/24"]
`

// listed are the clients of the states that a filter chooses.
func listed(t *testing.T, d *daemon, filter string) string {
	t.Helper()
	var list []string
	err := d.states(t.Context(), json.RawMessage(`{"filter":`+filter+`}`), func(item any) error {
		list = append(list, item.(*control.State).Source.Address.String())
		return nil
	})
	if err != nil {
		return err.Error()
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func TestFilters(t *testing.T) {
	d := testDaemon(t, threeRules)
	openFrom(d, "198.51.100.7:1", "192.0.2.10:80")
	openFrom(d, "198.51.100.8:1", "192.0.2.11:443")
	openFrom(d, "[2001:db8:1::7]:1", "[2001:db8::10]:80")
	for _, tt := range []struct{ filter, want string }{
		{`{}`, "198.51.100.7 198.51.100.8 2001:db8:1::7"},
		{`{"rules":["web"]}`, "198.51.100.7 2001:db8:1::7"},
		{`{"rules":["web","tls"]}`, "198.51.100.7 198.51.100.8 2001:db8:1::7"},
		{`{"rules":["bad"]}`, ""},
		{`{"source":"198.51.100.8/32"}`, "198.51.100.8"},
		{`{"source":"198.51.100.0/24"}`, "198.51.100.7 198.51.100.8"},
		{`{"source":"::/0"}`, "2001:db8:1::7"},
		{`{"destination":{"network":"192.0.2.0/24"}}`, "198.51.100.7 198.51.100.8"},
		{`{"destination":{"network":"192.0.2.0/24","port":80}}`, "198.51.100.7"},
		{`{"destination":{"port":80}}`, "198.51.100.7 2001:db8:1::7"},
		{`{"state":"CLOSED:SYN_SENT"}`, "198.51.100.7 198.51.100.8 2001:db8:1::7"},
		{`{"state":":syn_sent"}`, "198.51.100.7 198.51.100.8 2001:db8:1::7"},
		{`{"state":"ESTABLISHED:"}`, ""},
		{`{"interface":"all","source":"198.51.100.7/32"}`, "198.51.100.7"},
		{`{"interface":"eth0"}`, ""},
		{`{"rules":["web"],"source":"198.51.100.8/32"}`, ""},
		{`{"rules":["wbe"]}`, `states: no rule "wbe"; did you mean web?`},
		{`{"rules":["web","other"]}`, `states: no rule "other"`},
	} {
		if got := listed(t, d, tt.filter); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.filter, got, tt.want)
		}
	}
	if got := listed(t, d, `{"state":"OPEN:"}`); !strings.HasPrefix(got, `states: "OPEN" is not a state; `) {
		t.Errorf("an odd state: %s", got)
	}
}

// While the SYN proxy shakes hands, that is the state, whatever its server's side is.
func TestFilterOfHandshakes(t *testing.T) {
	d := testDaemon(t, "[[rule]]\nname = \"web\"\nport = [80]\nstate = \"synproxy\"\n")
	openFrom(d, "198.51.100.7:1", "192.0.2.10:80")
	for filter, want := range map[string]string{
		`{"state":"PROXY:SRC"}`: "198.51.100.7", `{"state":"PROXY:DST"}`: "", `{"state":"CLOSED:"}`: "", `{}`: "198.51.100.7",
	} {
		if got := listed(t, d, filter); got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
}

// The text of the states is what their items are as text.
func TestStatesAsText(t *testing.T) {
	d := testDaemon(t, threeRules)
	for i := range 2000 { // several items of text
		openFrom(d, fmt.Sprintf("198.51.100.%d:%d", i%250+1, i+1), "192.0.2.10:80")
	}
	var want, got []byte
	items := 0
	err := d.states(t.Context(), nil, func(item any) error {
		want = item.(*control.State).AppendText(want, 0)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = d.states(t.Context(), json.RawMessage(`{"text":true}`), func(item any) error {
		got = append(got, item.(string)...)
		items++
		return nil
	})
	if err != nil || string(got) != string(want) || items < 2 {
		t.Errorf("%d octets in %d items, want %d; %v", len(got), items, len(want), err)
	}
}

// A listing keeps nothing of the states it has listed.
func TestStatesMemory(t *testing.T) {
	d := testDaemon(t, threeRules)
	const n = 20_000
	for i := range n {
		openFrom(d, fmt.Sprintf("10.0.%d.%d:1", i/250, i%250), "192.0.2.10:80")
	}
	for _, args := range []string{`{}`, `{"text":true,"verbose":2}`} {
		before, most := heap(), uint64(0)
		seen := 0
		err := d.states(t.Context(), json.RawMessage(args), func(item any) error {
			if seen++; seen == n || strings.Contains(args, "text") && seen%50 == 0 {
				most = max(most, heap())
			}
			return nil
		})
		if err != nil || most == 0 {
			t.Fatal(seen, err)
		}
		if most > before+1<<20 {
			t.Errorf("%s: %d octets more than before", args, most-before)
		}
	}
}

// heap is how many octets are in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A listing that its reader gives up, or that the daemon's end cuts off, ends.
func TestStatesEndEarly(t *testing.T) {
	d := testDaemon(t, threeRules)
	openFrom(d, "198.51.100.7:1", "192.0.2.10:80")
	gone := fmt.Errorf("gone")
	err := d.states(t.Context(), nil, func(any) error { return gone })
	if fmt.Sprint(err) != "states: gone" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = d.states(ctx, nil, func(any) error { return nil })
	if fmt.Sprint(err) != "states: the daemon is stopping" {
		t.Errorf("got %v", err)
	}
}

// one has a handler send one item of type T.
func one[T any](t *testing.T, h control.Handler, args string) (item T, err error) {
	t.Helper()
	n := 0
	err = h(t.Context(), json.RawMessage(args), func(x any) error {
		item = x.(T)
		n++
		return nil
	})
	if err == nil && n != 1 {
		t.Fatalf("%d items, want 1", n)
	}
	return item, err
}

func TestRefusals(t *testing.T) {
	d := testDaemon(t, threeRules)
	d.started = d.started.Add(-time.Hour)
	openFrom(d, "198.51.100.7:1", "192.0.2.10:80") // not refused
	openFrom(d, "203.0.113.1:1", "192.0.2.10:80")
	openFrom(d, "203.0.113.2:1", "192.0.2.10:80")
	tuple := packet.TupleFrom(netip.MustParseAddrPort("[2001:db8::1]:5"), netip.MustParseAddrPort("[2001:db8::10]:80"))
	d.remember(d.now()-10*time.Minute, tuple, &engine.Refusal{
		Reason: packet.ReasonMaxSrcConnRate, Rule: "old", Count: 5, Limit: 5, Window: time.Second / 2,
	})
	// The last one's time is the latest: what came before is older.
	for _, tt := range []struct{ args, want string }{
		{`{}`, "203.0.113.1 203.0.113.2 2001:db8::1"},
		{`{"source":"203.0.113.2/32"}`, "203.0.113.2"},
		{`{"rules":["old"]}`, "2001:db8::1"},
		{`{"rules":["web"]}`, ""},
		{`{"rules":["bad","old"]}`, "203.0.113.1 203.0.113.2 2001:db8::1"},
		{`{"since":3000}`, "203.0.113.1 203.0.113.2 2001:db8::1"},
		{`{"rules":["odl"]}`, `refusals: no rule "odl"; did you mean old?`},
	} {
		got, err := one[*control.Refusals](t, d.refusals, tt.args)
		var list []string
		if err != nil {
			list = append(list, err.Error())
		} else {
			for _, r := range got.Refusals {
				list = append(list, r.Source.Address.String())
			}
		}
		if strings.Join(list, " ") != tt.want {
			t.Errorf("%s: %q, want %q", tt.args, list, tt.want)
		}
	}
	got, _ := one[*control.Refusals](t, d.refusals, `{"rules":["old"]}`)
	r := got.Refusals[0]
	if ago := time.Since(r.Time).Round(time.Minute); ago != 10*time.Minute {
		t.Errorf("refused %v ago, want 10 minutes", ago)
	}
	r.Time = time.Time{}
	want := control.Refusal{
		Source: control.End{Address: netip.MustParseAddr("2001:db8::1"), Port: 5}, Dest: control.End{Address: netip.MustParseAddr("2001:db8::10"), Port: 80},
		Reason: "max-src-conn-rate", Rule: "old", Count: 5, Limit: 5, Window: 0.5,
	}
	if r != want {
		t.Errorf("got %+v\nwant %+v", r, want)
	}
}

// What is older than asked for is left out, and what is lost is told.
func TestRefusalsSince(t *testing.T) {
	d := testDaemon(t, threeRules)
	d.started = d.started.Add(-time.Hour)
	for i := range refusalsKept + 5 {
		ago := 10 * time.Minute
		if i >= refusalsKept {
			ago = 0
		}
		d.remember(d.now()-ago, packet.Tuple{}, &engine.Refusal{Reason: packet.ReasonBlock})
	}
	for args, want := range map[string][2]int{
		`{}`: {refusalsKept, 5}, `{"since":60}`: {5, 0}, `{"since":1800}`: {refusalsKept, 5}, `{"since":0.000001}`: {0, 0}, `{"since":1e300}`: {refusalsKept, 5},
	} {
		got, err := one[*control.Refusals](t, d.refusals, args)
		if err != nil || len(got.Refusals) != want[0] || got.Lost != uint64(want[1]) {
			t.Errorf("%s: %d, and %d lost, want %v; %v", args, len(got.Refusals), got.Lost, want, err)
		}
	}
}

// A rule is shown with what it refused, and with the timeouts that are its own; one that
// vanished stays as long as it has states.
func TestRules(t *testing.T) {
	const others = "[timeouts]\n\"tcp.first\" = \"60s\"\n"
	d := testDaemon(t, others+`
[[rule]]
name = "old"
port = [80]
state = "keep"
[[rule]]
name = "try"
port = [443]
state = "keep"
max = 1
enforce = false
timeouts = { "tcp.first" = "60s", "tcp.closed" = "1500ms", "adaptive.start" = 60000, "adaptive.end" = 120000 }
[[rule]]
name = "bad"
action = "block"
from = ["203.0.113.0/24"]
`)
	openFrom(d, "198.51.100.7:1", "192.0.2.10:80")
	openFrom(d, "203.0.113.1:1", "192.0.2.10:80")
	openFrom(d, "203.0.113.1:2", "192.0.2.10:80")
	check := func(want string) {
		t.Helper()
		var b strings.Builder
		err := d.rules(t.Context(), nil, func(item any) error { return item.(*control.Rule).WriteText(&b, 2) })
		if err != nil || b.String() != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, b.String(), want)
		}
	}
	check(`@1 pass in proto tcp from any to any port = http flags S/SA keep state label "old"
  [ Evaluations: 1         Packets: 0         Bytes: 0           States: 1     ]
  [ Source Nodes: 0       State Creations: 1     ]
@2 pass in proto tcp from any to any port = https flags S/SA keep state (max 1, tcp.closed 1.5, adaptive.start 60000, adaptive.end 120000) enforce false label "try"
  [ Evaluations: 0         Packets: 0         Bytes: 0           States: 0     ]
  [ Source Nodes: 0       State Creations: 0     ]
@3 block return-rst in proto tcp from 203.0.113.0/24 to any label "bad"
  [ Evaluations: 2         Packets: 0         Bytes: 0           States: 0     ]
  [ Source Nodes: 0       State Creations: 0     ]
  [ Refused:  block 2 ]
`)
	c, err := config.Parse([]byte(others))
	if err != nil {
		t.Fatal(err)
	}
	d.engine.Reload(d.now(), d.engineConfig(c))
	check(`@1 pass in proto tcp from any to any port = http flags S/SA keep state label "old" # gone
  [ Evaluations: 1         Packets: 0         Bytes: 0           States: 1     ]
  [ Source Nodes: 0       State Creations: 1     ]
`)
}

func TestSettings(t *testing.T) {
	d := testDaemon(t, "[timeouts]\noptimization = \"aggressive\"\n\"tcp.closed\" = \"500ms\"\n\"src.track\" = \"5s\"\n[limits]\nstates = 1000\n")
	timeouts, err := one[*control.Timeouts](t, d.timeouts, "")
	if err != nil {
		t.Fatal(err)
	}
	memory, err := one[*control.Memory](t, d.memory, "")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	_ = timeouts.WriteText(&b, 0)
	_ = memory.WriteText(&b, 0)
	const want = `tcp.first                    30s
tcp.opening                   5s
tcp.established           18000s
tcp.closing                  60s
tcp.finwait                  30s
tcp.closed                  0.5s
adaptive.start              600 states
adaptive.end               1200 states
src.track                     5s
states        hard limit     1000
src-nodes     hard limit    10000
table-entries hard limit   200000
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// Many states, listed through the socket as "nfqfw states" has them listed; also the
// time of each.
func BenchmarkStates(b *testing.B) {
	d := testDaemon(b, "[limits]\nstates = 1_000_000\n[[rule]]\nname = \"web\"\nport = [80]\nstate = \"keep\"\n")
	const n = 100_000
	p := packet.Packet{
		Tuple: packet.TupleFrom(netip.MustParseAddrPort("198.51.100.7:1"), netip.MustParseAddrPort("192.0.2.10:80")),
		Flags: packet.SYN, Seq: 100, Window: 64240,
	}
	var decision engine.Decision
	for i := range uint32(n) {
		binary.BigEndian.PutUint32(p.Src[12:], 0x0a000000|i)
		d.engine.Handle(0, &p, &decision)
	}
	if d.engine.Len() != n {
		b.Fatal(d.engine.Len())
	}
	dir, err := os.MkdirTemp("", "nfqfw-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "control.sock")
	server, err := control.Listen(path, d.handlers(), d.log)
	if err != nil {
		b.Fatal(err)
	}
	go server.Serve(b.Context())
	for name, args := range map[string]control.StatesArgs{"text": {Text: true}, "JSON": {}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				octets := 0
				err := control.Call(b.Context(), path, "states", args, func(raw json.RawMessage) error {
					octets += len(raw)
					return nil
				})
				if err != nil || octets < n*50 {
					b.Fatal(octets, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/state")
		})
	}
}
