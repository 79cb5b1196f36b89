package integration

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/seedtest"
)

// cookieConfig is webRule behind SYN cookies, with a limit of 10.
var cookieConfig = webConfig("cookies", 10)

// policies are the ways in which a rule can have connections made: "cookies" is
// the SYN proxy that keeps nothing.
var policies = []string{"synproxy", "cookies", "keep"}

// webConfig is webRule under one of the policies.
func webConfig(policy string, limit int) string { return policyConfig(policy, webRule, limit) }

// policyConfig is a rule, written with its state and limit, under one of the
// policies.
func policyConfig(policy, rule string, limit int) string {
	cookies, state := underPolicy(policy)
	return cookies + fmt.Sprintf(rule, state, limit)
}

// underPolicy are the section and the state of a rule that make a policy.
func underPolicy(policy string) (section, state string) {
	if policy == "cookies" {
		return "[syncookies]\nmode = \"always\"\n", "synproxy"
	}
	return "", policy
}

// With cookies the limit holds as it does without: of 100 connections the
// server accepts ten, whether they come one by one or at once.
func TestCookieLimit(t *testing.T) {
	under(t, "cookies", places, Families, func(t *testing.T, _ string, at place, f Family) {
		for _, concurrency := range []int{1, 100} {
			g := guardWith(t, cookieConfig, at, f, AcceptOptions{Echo: true})
			attack := g.lab.Client.Hold(g.ctx, HoldOptions{From: ClientAddr(f, 0), To: g.srv.Addr(), N: 100, Concurrency: concurrency})
			expectRefusals(t, attack, g.srv, 10)
			other := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(1), To: g.srv.Addr(), N: 3})
			if other.Count(Held) != 3 {
				t.Errorf("another client: %v", other)
			}
			g.expectNoLosses()
		}
	})
}

// cookieFlood is how many packets a test of cookies forges.
const cookieFlood = 300

// A SYN alone leaves nothing behind, whether its source answers or not, and
// neither does an ACK that repeats no cookie of ours.
func TestCookiesKeepNothing(t *testing.T) {
	under(t, "cookies", places, Families, func(t *testing.T, _ string, at place, f Family) {
		g := guardWith(t, cookieConfig, at, f, AcceptOptions{Echo: true})
		wire := openWire(t, g.lab, f)
		r := seedtest.Rand(t)
		for _, source := range []func(Family, int) netip.Addr{AbsentAddr, CrowdAddr} {
			g.flood(wire, source, r, rawPacket{flags: flagSYN}, "synproxy")
			g.flood(wire, source, r, rawPacket{flags: flagACK}, "state-mismatch")
			g.flood(wire, source, r, rawPacket{flags: flagACK | flagPSH, payload: []byte("data")}, "state-mismatch")
		}
		if n := g.srv.Count(); n != 0 {
			t.Errorf("the server accepted %d", n)
		}
		client := g.lab.Client.Hold(g.ctx, HoldOptions{From: ClientAddr(f, 0), To: g.srv.Addr(), N: 1})
		if client.Count(Held) != 1 {
			t.Errorf("a client after the flood: %v", client)
		}
		g.expectNoLosses()
	})
}

// flood sends packets like p from many sources, waits until all were dropped
// for one reason, and looks that no state came of them.
func (g *guarded) flood(wire *rawWire, source func(Family, int) netip.Addr, r *rand.Rand, p rawPacket, reason string) {
	g.t.Helper()
	before := g.counter(reason)
	for i := range cookieFlood {
		p.src, p.dst = netip.AddrPortFrom(source(g.family, i), uint16(1024+r.IntN(60000))), g.srv.Addr()
		p.seq, p.ack = r.Uint32(), r.Uint32()
		if err := wire.send(p.octets()); err != nil {
			g.t.Fatal(err)
		}
	}
	if Poll(g.ctx, func() bool { return g.counter(reason) >= before+cookieFlood }) != nil {
		g.t.Fatalf("%s: %d of %d", reason, g.counter(reason)-before, cookieFlood)
	}
	time.Sleep(pause) // what the sources answer
	if list := must[[]control.State](g.t, "states")(g.fw.States(g.ctx)); len(list) != 0 {
		g.t.Errorf("%s from %v on: states %s", reason, source(g.family, 0), summary(list))
	}
}

// counter is one of "nfqfw info", a loss or another.
func (g *guarded) counter(name string) uint64 {
	g.t.Helper()
	i := g.info()
	for _, c := range append(i.Counters, i.Losses...) {
		if c.Name == name {
			return c.Packets
		}
	}
	g.t.Fatalf("info has no %s", name)
	return 0
}

// expectNoLosses holds that all packets were judged, and all judgments carried
// out.
func (g *guarded) expectNoLosses() {
	g.t.Helper()
	i := g.info()
	for _, c := range i.Losses {
		if c.Packets != 0 {
			g.t.Errorf("%s: %d", c.Name, c.Packets)
		}
	}
}
