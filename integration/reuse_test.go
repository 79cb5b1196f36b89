package integration

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"
)

const (
	reuseConnections = 4000
	reusePorts       = 500
	reuseWorkers     = 32
	reusePatience    = 100
)

// newShortLoad is the load of the tests of re-used tuples, in a lab.
func newShortLoad(l *Lab, at place, f Family, connections int) *shortLoad {
	return &shortLoad{
		client: l.Client, from: ClientAddr(f, 0), to: netip.AddrPortFrom(at.addr(f), 80),
		connections: connections, ports: reusePorts, workers: reuseWorkers, patience: reusePatience,
	}
}

// Many short connections over few ports, each begun as soon as the client's
// kernel lets its port be used again: none is refused, though the limit is as
// many as there are at a time, none is reset, and none waits for a timer.
func TestReusedTuples(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			l, at := newLab(t, Options{}), places[0]
			startFirewall(t, l, webConfig(policy, reuseWorkers))
			load := newShortLoad(l, at, IPv4, reuseConnections)
			answerShort(t, at.ns(l), load.to)
			load.run(testContext(t)).expectSmooth(t, reuseConnections)
		})
	}
}

// expectSmooth fails the test unless all connections were answered at once.
func (r *shortResult) expectSmooth(t *testing.T, connections int) {
	t.Helper()
	t.Log(r)
	if len(r.took) != connections || len(r.failures) > 0 || r.stalls() > 0 {
		t.Errorf("%d of %d answered, %d stalls", len(r.took), connections, r.stalls())
	}
	for _, err := range r.failures[:min(len(r.failures), 5)] {
		t.Error(err)
	}
}

const (
	// wholeReuse is the load that an operator would see in a minute or less.
	wholeReuse   = 20_000
	rivalRounds  = 3
	reuseTimeout = time.Minute // for one run, however many of its connections stall
)

// BenchmarkReusedTuples compares the firewall with nothing, with plain conntrack
// and with the kernel's own SYN proxy, under the same load and in turns. Its table
// of medians is in the log (go test -v).
func BenchmarkReusedTuples(b *testing.B) { compareShort(b, reusePorts) }

// BenchmarkFreshTuples does the same with each port used once.
func BenchmarkFreshTuples(b *testing.B) { compareShort(b, wholeReuse) }

func compareShort(b *testing.B, ports int) {
	c := newComparison("connections/s", "p50 ms", "p99 ms", "max ms", "answered", "stalls", "failed")
	for round := range rivalRounds {
		for _, r := range rivals {
			result := r.bear(b, ports)
			b.Logf("round %d, %s: %v", round+1, r.name, result)
			c.add(r, result.rate(), milliseconds(result.percentile(50)), milliseconds(result.percentile(99)),
				milliseconds(result.percentile(100)), float64(len(result.took)), float64(result.stalls()), float64(len(result.failures)))
		}
	}
	b.Log(c.table(rivals, direct))
}

// bear puts the whole load onto the rival, in a lab of its own.
func (r *rival) bear(b *testing.B, ports int) (result *shortResult) {
	b.Helper()
	name := strings.ReplaceAll(r.name, " ", "-")
	b.Run(name, func(b *testing.B) {
		l := newLab(b, Options{})
		r.set(b, l)
		load := newShortLoad(l, places[0], IPv4, wholeReuse)
		load.ports = ports
		answerShort(b, l.Server, load.to)
		ctx, cancel := context.WithTimeout(b.Context(), reuseTimeout)
		defer cancel()
		result = load.run(ctx)
		b.ReportMetric(result.rate(), "connections/s")
	})
	return result
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
