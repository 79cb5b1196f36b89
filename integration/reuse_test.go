package integration

import (
	"net/netip"
	"testing"
)

const (
	reuseConnections = 4000
	reusePorts       = 500
	reuseWorkers     = 32
	reusePatience    = 100
)

// newShortLoad is the load of the tests of re-used tuples, in a lab.
func newShortLoad(l *Lab, at place, f Family, connections int) *ShortLoad {
	return &ShortLoad{
		Client: l.Client, From: ClientAddr(f, 0), To: netip.AddrPortFrom(at.addr(f), 80),
		Connections: connections, Ports: reusePorts, Workers: reuseWorkers, Patience: reusePatience,
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
			answerShort(t, at.ns(l), load.To)
			load.Run(testContext(t)).expectSmooth(t, reuseConnections)
		})
	}
}

// expectSmooth fails the test unless all connections were answered at once.
func (r *ShortResult) expectSmooth(t *testing.T, connections int) {
	t.Helper()
	t.Log(r)
	if len(r.Took) != connections || len(r.Failures) > 0 || r.Stalls() > 0 {
		t.Errorf("%d of %d answered, %d stalls", len(r.Took), connections, r.Stalls())
	}
	for _, err := range r.Failures[:min(len(r.Failures), 5)] {
		t.Error(err)
	}
}

// answerShort starts a server of the load.
func answerShort(t testing.TB, n *Namespace, addr netip.AddrPort) {
	t.Helper()
	if err := n.AnswerShort(addr); err != nil {
		t.Fatal(err)
	}
}
