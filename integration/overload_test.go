package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// overloadConfig has a table that fills by rules of three ports, which flush nothing,
// what they have let in, and all of a source; and a fourth rule beside them.
func overloadConfig(policy string) string {
	cookies, state := underPolicy(policy)
	text := cookies + `
[table.abusers]
ttl = "2s"
[[rule]]
name = "abusers"
action = "block"
from = ["<abusers>"]
quick = true
`
	for i, keys := range []string{"", `flush = "rule"`, `flush = "global"`} {
		text += fmt.Sprintf("[[rule]]\nport = [%d]\nstate = %q\nmax_src_conn = 2\nmax_src_conn_rate = \"20/1h\"\noverload = \"abusers\"\n%s\n", 80+i, state, keys)
	}
	return text + fmt.Sprintf("[[rule]]\nport = [83]\nstate = %q\n", state)
}

// eachOverload runs a test for some policies and each server. The test has four ports, and
// ten sources.
func eachOverload(t *testing.T, policies []string, run func(on []*guarded, first int)) {
	needIPSet(t)
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			for i, g := range guardAll(t, overloadConfig(policy), AcceptOptions{}) {
				g.srv.Close()
				t.Run(fmt.Sprintf("%s/%v", g.at.name, g.family), func(t *testing.T) {
					t.Parallel() // it waits for entries to run out
					run(g.listeners(t, 80, 4), 10*i)
				})
			}
		})
	}
}

// Who passes a limit is put into the table and blocked, for the table's time. Its
// connections of the rule, or all, are reset at both ends at once, if the rule says so.
func TestOverload(t *testing.T) {
	eachOverload(t, []string{"synproxy", "keep"}, func(on []*guarded, first int) {
		for i, flushes := range []struct{ own, other bool }{{false, false}, {true, false}, {true, true}} {
			g, source := on[i], first+i
			own, other := g.gets(source, 2), on[3].gets(source, 1)
			began := time.Now()
			g.isRefused(source, "one more than 2")
			g.ended(own, flushes.own, began)
			g.ended(other, flushes.other, began)
			g.waitTable(source, true)
			if a := g.tryFor(source, pause); a.Outcome != TimedOut {
				g.t.Errorf("from the table: %v, want silence", a.Outcome)
			}
			on[3].gets(first+9, 1)
		}
		for i, g := range on[:3] {
			g.waitTable(first+i, false)
			began := time.Now()
			if err := Poll(g.ctx, func() bool { return g.tryFor(first+i, atOnce).Outcome != TimedOut }); err != nil {
				g.t.Errorf("when its time was over: not let in after %v", time.Since(began))
			}
		}
	})
}

// ended holds that both ends of a source's connections have been reset, or that they
// live.
func (g *guarded) ended(list []pair, reset bool, since time.Time) {
	g.t.Helper()
	if !reset {
		g.allEcho(list)
		return
	}
	for _, p := range list {
		_ = p.client.SetDeadline(since.Add(killTime))
		if _, err := p.client.Read(make([]byte, 1)); outcomeOf(err) != Reset {
			g.t.Errorf("the client of a flushed connection hears %v, want a reset", err)
		}
	}
	source := list[0].client.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
	_ = Poll(g.ctx, func() bool { return len(g.held(source)) == 0 || time.Since(since) > killTime })
	if left := g.held(source); len(left) > 0 {
		g.t.Errorf("the server holds %v after a flush", left)
	}
}

// tryFor attempts a connection for a while.
func (g *guarded) tryFor(from int, d time.Duration) Attempt {
	return g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(from), To: g.srv.Addr(), N: 1, Timeout: d}).Attempts[0]
}

// inTable says whether a source is in the table: in IPv6, its /64.
func (g *guarded) inTable(from int) bool {
	a := g.source(from)
	entry := a.String()
	if g.family == IPv6 {
		entry = netip.PrefixFrom(a, 64).Masked().String()
	}
	return strings.Contains(" "+strings.Join(strings.Fields(g.table("show")), " ")+" ", " "+entry+" ")
}

func (g *guarded) waitTable(from int, want bool) {
	g.t.Helper()
	if Poll(g.ctx, func() bool { return g.inTable(from) == want }) != nil {
		g.t.Fatalf("%v in the table: %v, want %v", g.source(from), !want, want)
	}
}

// forgedSYNs is how many are sent in a client's name.
const forgedSYNs = 200

// Who sends SYNs in another's name does not bring it into the table, neither one that
// has as much as it may nor one that has nothing.
func TestOverloadByForgedSYNs(t *testing.T) {
	eachOverload(t, policies, func(on []*guarded, first int) {
		g := on[2]
		open := g.gets(first, 2)
		wire := openWire(g.t, g.lab, g.family)
		for i := range forgedSYNs {
			src := netip.AddrPortFrom(g.source(first+i%2), uint16(1024+i))
			if err := wire.send(rawPacket{src: src, dst: g.srv.Addr(), flags: flagSYN}.octets()); err != nil {
				g.t.Fatal(err)
			}
			forged := rawPacket{src: src, dst: g.srv.Addr(), seq: 1001, ack: uint32(i) * 1234567, flags: flagACK}
			if err := wire.send(forged.octets()); err != nil {
				g.t.Fatal(err)
			}
		}
		on[0].gets(first+1, 2) // what was sent before has been seen
		for i := range 2 {
			if g.inTable(first + i) {
				g.t.Errorf("%v is in the table: %s", g.source(first+i), g.table("show"))
			}
		}
		g.allEcho(open)
		g.gets(first+1, 2)
		g.isRefused(first, "one more than 2, which it asked for itself")
		g.waitTable(first, true)
	})
}

// In IPv6 a source is a network, and all of it is blocked; in IPv4 an address.
func TestOverloadOfAGroup(t *testing.T) {
	needIPSet(t)
	for _, g := range guardAll(t, overloadConfig("synproxy"), AcceptOptions{Echo: true}) {
		try := func(i int) Outcome {
			return g.lab.Client.Hold(g.ctx, HoldOptions{From: ClientAddr(g.family, i), To: g.srv.Addr(), N: 1, Timeout: dialTime}).Attempts[0].Outcome
		}
		for range 3 {
			_ = try(0)
		}
		if Poll(g.ctx, func() bool { return g.table("show") != "" }) != nil {
			t.Fatal("the table is empty")
		}
		if got, want := try(1), map[Family]Outcome{IPv4: Held, IPv6: TimedOut}[g.family]; got != want {
			t.Errorf("%s, %v, another address of the network: %v, want %v", g.at.name, g.family, got, want)
		}
		g.gets(1, 1)
		g.table("flush")
	}
}
