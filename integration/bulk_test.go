package integration

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bulkWays are the directions of a transfer, as iperf3 is told.
var bulkWays = []struct {
	name string
	args []string
}{{"up", nil}, {"down", []string{"--reverse"}}}

// bulkRivals are those whose throughput is compared.
var bulkRivals = slices.DeleteFunc(slices.Clone(rivals), func(r rival) bool { return r.name == "kernel SYNPROXY, MSS only" })

// BenchmarkBulk compares the throughput of one connection, each way, with that
// through plain conntrack, in many short turns, as on a busy machine the long ones
// are not alike. Its table of medians is in the log (go test -v).
func BenchmarkBulk(b *testing.B) {
	const rounds = 21
	up, down := measureBulk(b, bulkRivals, rounds, "--bytes", "500M")
	b.Log("up\n" + up.table(bulkRivals, plainConntrack) + "\ndown\n" + down.table(bulkRivals, plainConntrack))
}

// bulkShare is a share of conntrack's throughput that the SYN proxy does not fall
// under on any machine, however busy, unless something is wrong.
const bulkShare = 0.5

// Bulk data through the SYN proxy is nearly as fast as through plain conntrack.
// BenchmarkBulk measures how nearly.
func TestBulkThroughput(t *testing.T) {
	list := []rival{plainConntrack, {name: "nfqfw synproxy", policy: "synproxy"}}
	up, down := measureBulk(t, list, 5, "--bytes", "150M")
	for i, c := range []*comparison{up, down} {
		ratio := c.best(list[1], 0) / c.best(list[0], 0)
		t.Logf("%s: %.1f of %.1f Gbit/s, %.2f", bulkWays[i].name, c.best(list[1], 0), c.best(list[0], 0), ratio)
		if ratio < bulkShare {
			t.Errorf("%s: %.2f of what conntrack alone passes, want %.2f at least", bulkWays[i].name, ratio, bulkShare)
		}
	}
}

// measureBulk measures all rivals in turns, each in a lab of its own.
func measureBulk(t testing.TB, list []rival, rounds int, amount ...string) (up, down *comparison) {
	t.Helper()
	Require(t, Program("iperf3"))
	labs := make([]*Lab, len(list))
	for i, r := range list {
		labs[i] = newLab(t, Options{})
		r.set(t, labs[i])
		server := labs[i].Server.Command(t.Context(), "iperf3", "--server", "--port", "80")
		if err := server.Start(); err != nil {
			t.Fatalf("iperf3: %v", err)
		}
		waitListen(t, labs[i].Server, 80)
	}
	up, down = newComparison("Gbit/s"), newComparison("Gbit/s")
	for round := range rounds {
		for turn := range list {
			i := (round + turn) % len(list) // none is always behind the same one
			r := list[i]
			for j, c := range []*comparison{up, down} {
				c.add(r, labs[i].iperf(t, append(bulkWays[j].args, amount...)...))
			}
		}
	}
	return up, down
}

// waitListen waits until somebody listens on a port.
func waitListen(t testing.TB, n *Namespace, port uint16) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := Poll(ctx, func() bool {
		list, err := n.Sockets(Listen)
		return err == nil && len(list.Local(port)) > 0
	})
	if err != nil {
		t.Fatalf("nobody listens on port %d: %v", port, err)
	}
}

// iperfReport is what iperf3 --json prints, as far as it matters here.
type iperfReport struct {
	End struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	}
	Error string
}

// iperf transfers data between client and server and returns the throughput in
// Gbit/s. Between two transfers the server closes its listening socket and opens
// another: who comes in between is refused, and comes again.
func (l *Lab) iperf(t testing.TB, args ...string) float64 {
	t.Helper()
	args = append([]string{"--client", ServerAddr(IPv4).String(), "--port", strconv.Itoa(80), "--json"}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var report iperfReport
	var out []byte
	err := Poll(ctx, func() bool {
		var err error
		out, err = l.Client.Command(ctx, "iperf3", args...).Output()
		report = iperfReport{}
		refused := json.Unmarshal(out, &report) == nil && strings.Contains(report.Error, "Connection refused")
		return err == nil || !refused
	})
	if err != nil || report.Error != "" || report.End.Received.BitsPerSecond == 0 {
		t.Fatalf("iperf3: %v: %s", err, out)
	}
	return report.End.Received.BitsPerSecond / 1e9
}
