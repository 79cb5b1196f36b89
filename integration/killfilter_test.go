package integration

import (
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfqfw/internal/control"
)

// What each selection of kill ends, of connections of two sources to two ports, of
// which the client of one has sent its FIN.
func TestKillFilters(t *testing.T) {
	runRuleCases(t, []ruleCase{{"filters", []string{"max_src_conn = 5", "max_src_conn = 5"}, testKillFilters}})
}

func testKillFilters(c *ruleTest) {
	k := &killTest{c, c.on[0], c.on[1]}
	a, b := k.one.source(c.first), k.one.source(c.first+1)
	network := map[Family]int{IPv4: 31, IPv6: 63}[k.one.family]
	of := netip.PrefixFrom(k.one.source(c.first+3), network).Masked().String()
	rule := k.one.ruleName()
	for _, choice := range []struct {
		words []string
		ends  string // of the connections that open makes
	}{
		{[]string{a.String()}, "ab"},
		{[]string{a.String(), k.one.srv.Addr().String()}, "a"},
		{[]string{b.String(), k.one.srv.Addr().Addr().String()}, "cd"},
		{[]string{of, k.other.srv.Addr().String()}, "f"},
		{[]string{"--rule", rule}, "ace"},
		{[]string{"--rule", rule, "--state", "ESTABLISHED:FIN_WAIT_2"}, "c"},
		{[]string{"--iface", "eth0", "--rule", rule, b.String()}, "c"},
		{[]string{"--id", ""}, "c"},
	} {
		open := k.open()
		if choice.words[0] == "--id" {
			choice.words[1] = k.one.stateTo(b, k.one.srv.Addr().Port()).ID
		}
		if n := k.one.kills(choice.words...); n != len(choice.ends) {
			c.Errorf("kill %v: %d states, want %d", choice.words, n, len(choice.ends))
		}
		k.expectEnded(open, choice.ends)
	}
}

// killTest is two ports to which a few sources have connections.
type killTest struct {
	*ruleTest
	one, other *guarded
}

// sources are three, of which the last is in another network of two.
func (k *killTest) sources() []int { return []int{k.first, k.first + 1, k.first + 3} }

// open opens a, c and e to one port, and b, d and f to the other, two from each source.
// The client of c has sent its FIN.
func (k *killTest) open() map[byte]*net.TCPConn {
	k.Helper()
	open := make(map[byte]*net.TCPConn)
	for i, from := range k.sources() {
		open['a'+byte(2*i)] = k.one.gets(from, 1)[0].client
		open['b'+byte(2*i)] = k.other.gets(from, 1)[0].client
	}
	_ = open['c'].CloseWrite()
	closing := func() bool {
		return k.one.stateTo(k.one.source(k.first+1), k.one.srv.Addr().Port()).State == "ESTABLISHED:FIN_WAIT_2"
	}
	if Poll(k.one.ctx, closing) != nil {
		k.Fatal("the FIN of a client is not seen")
	}
	return open
}

// expectEnded holds that some connections were reset and the others live, and ends
// these too.
func (k *killTest) expectEnded(open map[byte]*net.TCPConn, ends string) {
	k.Helper()
	for letter, conn := range open {
		if strings.ContainsRune(ends, rune(letter)) {
			expectReset(k.T, conn, killTime)
		} else if letter != 'c' {
			echo(k.T, conn)
		}
	}
	k.one.kills("--rule", k.one.ruleName(), "--rule", k.other.ruleName())
	k.holds(k.one, 0)
	k.holds(k.other, 0)
}

// kills runs the command kill, and returns how many states it says that it has killed.
func (g *guarded) kills(words ...string) int {
	g.t.Helper()
	out, err := g.fw.Command(g.ctx, append([]string{"kill", "--json"}, words...)...)
	var k control.Killed
	if err = errors.Join(err, json.Unmarshal([]byte(out), &k)); err != nil {
		g.t.Fatalf("kill %v: %v %s", words, err, out)
	}
	return k.States
}

// stateTo is a source's state to a port, if there is one.
func (g *guarded) stateTo(from netip.Addr, port uint16) (found control.State) {
	g.t.Helper()
	for _, s := range g.statesOf(from) {
		if s.Dest.Port == port {
			found = s
		}
	}
	return found
}

// A silent kill resets nobody. Who sends then is told that there is no connection.
func TestKillSilent(t *testing.T) {
	runRuleCases(t, []ruleCase{{"silent", []string{"max_src_conn = 1"}, func(c *ruleTest) {
		g := c.on[0]
		p := g.gets(c.first, 1)[0]
		if n := g.kills("--silent", g.source(c.first).String()); n != 1 {
			c.Errorf("%d states killed, want 1", n)
		}
		if list := g.statesOf(g.source(c.first)); len(list) > 0 {
			c.Errorf("states after a kill: %s", summary(list))
		}
		_ = p.client.SetReadDeadline(time.Now().Add(4 * pause))
		if _, err := p.client.Read(make([]byte, 1)); outcomeOf(err) != TimedOut {
			c.Errorf("the client hears %v, want silence", err)
		}
		c.holds(g, 1)
		if _, err := p.client.Write([]byte{'.'}); err != nil {
			c.Fatal(err)
		}
		expectReset(c.T, p.client, killTime)
	}}})
}

// A source that is at its limit is let in at once when its connections are killed, from
// the very same ports.
func TestKillFreesAtOnce(t *testing.T) {
	runRuleCases(t, []ruleCase{{"limit", []string{"max_src_conn = 3"}, func(c *ruleTest) {
		g := c.on[0]
		open := g.gets(c.first, 3)
		g.isRefused(c.first, "one more than 3")
		if n := g.kills("--state", "ESTABLISHED:", g.source(c.first).String()); n != 3 {
			c.Errorf("%d states killed, want 3", n)
		}
		for _, p := range open {
			expectReset(c.T, p.client, killTime)
			from := p.client.LocalAddr().(*net.TCPAddr).AddrPort()
			_ = p.client.Close()
			again := g.openFrom(from)
			echo(c.T, again.client)
		}
		g.isRefused(c.first, "one more than 3 again")
		c.holds(g, 3)
	}}})
}

// killedAtOnce is how many connections are killed together, and killAllTime how long it
// may take until the last end of one has heard.
const (
	killedAtOnce = 1000
	killAllTime  = 2 * time.Second
)

// A thousand connections are killed at once: all ends hear soon.
func TestKillAll(t *testing.T) {
	for i, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			g := guardWith(t, webConfig(policy, 2*killedAtOnce), places[i], Families[i], AcceptOptions{})
			h := g.lab.Client.Hold(g.ctx, HoldOptions{
				From: g.source(0), To: g.srv.Addr(), N: killedAtOnce, Concurrency: 100, Silence: time.Millisecond,
			})
			if h.Count(Held) != killedAtOnce {
				t.Fatalf("%v, want %d held", h, killedAtOnce)
			}
			if Poll(g.ctx, func() bool { return len(g.held(g.source(0))) == killedAtOnce }) != nil {
				t.Fatalf("the server holds %d, want %d", len(g.held(g.source(0))), killedAtOnce)
			}
			began := time.Now()
			if n := g.kills("--all"); n != killedAtOnce {
				t.Errorf("%d states killed, want %d", n, killedAtOnce)
			}
			g.expectAllReset(h.Conns(), began)
			g.expectNoLosses()
		})
	}
}

func (g *guarded) expectAllReset(clients []*net.TCPConn, began time.Time) {
	g.t.Helper()
	deadline := began.Add(killAllTime)
	var mu sync.Mutex
	deaf := 0
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			_ = c.SetReadDeadline(deadline)
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				mu.Lock()
				defer mu.Unlock()
				deaf++
			}
		})
	}
	all.Wait()
	_ = Poll(g.ctx, func() bool { return len(g.held(g.source(0))) == 0 || time.Now().After(deadline) })
	if left := len(g.held(g.source(0))); deaf > 0 || left > 0 {
		g.t.Errorf("after %v: %d clients have heard nothing, and the server holds %d", killAllTime, deaf, left)
	}
	g.t.Logf("%d connections: all ends have heard in %v", len(clients), time.Since(began).Round(time.Millisecond))
}
