package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// conntrackRules is what any gateway with a stateful rule does.
const conntrackRules = `*filter
-A FORWARD -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT
COMMIT
`

// bulkWays are the directions of a transfer, as iperf3 is told.
var bulkWays = []struct {
	name string
	args []string
}{{"up", nil}, {"down", []string{"--reverse"}}}

const (
	// bulkShare is a share of conntrack's throughput that the SYN proxy does not fall
	// under on any machine, however busy, unless something is wrong.
	bulkShare  = 0.5
	bulkRounds = 5
)

// Bulk data through the SYN proxy is nearly as fast as through plain conntrack.
// "make bench" measures how nearly.
func TestBulkThroughput(t *testing.T) {
	Require(t, Program("iperf3"))
	plain, proxied := newLab(t, Options{}), newLab(t, Options{})
	Require(t, IPTables)
	if err := plain.Gateway.Feed(t.Context(), conntrackRules, "iptables-restore"); err != nil {
		t.Fatal(err)
	}
	startFirewall(t, proxied, webConfig("synproxy", 1000))
	best := make(map[string]float64) // what is measured while others work is less
	for round := range bulkRounds {
		for i, l := range []*Lab{plain, proxied} {
			if round == 0 {
				startIperf(t, l)
			}
			for _, way := range bulkWays {
				key := fmt.Sprint(way.name, i)
				best[key] = max(best[key], l.transfer(t, way.args))
			}
		}
	}
	for _, way := range bulkWays {
		ratio := best[way.name+"1"] / best[way.name+"0"]
		t.Logf("%s: %.1f of %.1f Gbit/s, %.2f", way.name, best[way.name+"1"], best[way.name+"0"], ratio)
		if ratio < bulkShare {
			t.Errorf("%s: %.2f of what conntrack alone passes, want %.2f at least", way.name, ratio, bulkShare)
		}
	}
}

func startIperf(t *testing.T, l *Lab) {
	t.Helper()
	if err := l.Server.StartIperf(t.Context(), 80); err != nil {
		t.Fatal(err)
	}
}

func (l *Lab) transfer(t *testing.T, way []string) float64 {
	t.Helper()
	args := append(slices.Clone(way), "--bytes", "150M")
	return must[float64](t, "transfer")(l.Client.Iperf(t.Context(), netip.AddrPortFrom(ServerAddr(IPv4), 80), args...))
}
