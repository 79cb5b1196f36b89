package integration

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
)

// pf.conf(5), set optimization: seconds of each class.
var presetSeconds = map[string][conntrack.TimeoutCount]float64{
	"normal":       {120, 30, 86400, 900, 45, 90},
	"high-latency": {180, 35, 86400, 905, 50, 95},
	"satellite":    {180, 35, 86400, 905, 50, 95},
	"conservative": {3600, 900, 432000, 3600, 600, 180},
	"aggressive":   {30, 5, 18000, 60, 30, 30},
}

const presetConfig = `
[timeouts]
optimization = %q
[[rule]]
name = "kept"
port = [80]
state = "keep"
[[rule]]
name = "proxied"
port = [81]
state = "synproxy"
[[rule]]
name = "own"
port = [82]
state = "keep"
timeouts = { "tcp.established" = "77s" }
`

// With each preset, a state of each class lives as long as pf says, and one of a rule
// that says otherwise as it says. States that are there change with a reload.
func TestOptimization(t *testing.T) {
	g := guardWith(t, fmt.Sprintf(presetConfig, "normal"), places[0], IPv4, AcceptOptions{})
	g.oneOfEachClass()
	own := must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(82), AcceptOptions{}))
	behind := *g
	behind.srv = own
	behind.open(g.source(9))
	for name, seconds := range presetSeconds {
		g.reloads(fmt.Sprintf(presetConfig, name))
		classes := make(map[string]bool)
		for _, s := range must[[]control.State](t, "states")(g.fw.States(g.ctx)) {
			want := 77.0
			if s.Rule != "own" {
				want = seconds[classOf(t, s.Timeout)]
				classes[s.Timeout] = true
			}
			expectExpires(t, name, s, want)
		}
		if len(classes) != conntrack.TimeoutCount {
			t.Errorf("%s: states of %v, want one of each class", name, classes)
		}
	}
	text, err := g.fw.Command(g.ctx, "states", "-v", "--rule", "own")
	if err != nil || !strings.Contains(text, "expires in 00:01:") {
		t.Errorf("states -v: %v\n%s", err, text)
	}
}

func classOf(t *testing.T, name string) conntrack.Timeout {
	t.Helper()
	for c := range conntrack.Timeout(conntrack.TimeoutCount) {
		if c.String() == name {
			return c
		}
	}
	t.Fatalf("there is no class %q", name)
	return 0
}

// expectExpires holds that a state is forgotten so many seconds after its last packet,
// which came at some time since it was made.
func expectExpires(t *testing.T, what string, s control.State, seconds float64) {
	t.Helper()
	const rounding = 0.002
	if s.Expires > seconds+rounding || s.Expires < seconds-s.Age-rounding {
		t.Errorf("%s: %s of rule %s, %v s old, expires in %v s, want %v s after its last packet", what, s.State, s.Rule, s.Age, s.Expires, seconds)
	}
}

// reloads has the daemon take another configuration.
func (g *guarded) reloads(config string) {
	g.t.Helper()
	if out, err := g.fw.Reload(g.ctx, config); err != nil {
		g.t.Fatalf("reload: %v %s", err, out)
	}
}

// oneOfEachClass makes a state in each class of lifetimes; all stay in theirs for a
// quarter of a minute.
func (g *guarded) oneOfEachClass() {
	g.t.Helper()
	wire := openWire(g.t, g.lab, g.family)
	must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(81), AcceptOptions{Echo: true}))
	g.teach(81)
	for _, port := range []uint16{80, 81} { // tcp.opening, when the server has answered; tcp.first
		syn := rawPacket{src: netip.AddrPortFrom(AbsentAddr(g.family, int(port)), 1024), dst: g.addr(port), flags: flagSYN}
		if err := wire.send(syn.octets()); err != nil {
			g.t.Fatal(err)
		}
	}
	g.open(g.source(0)) // tcp.established

	closing := g.open(g.source(2))
	_ = closing.client.CloseWrite()

	finwait := g.open(g.source(3))
	_ = finwait.client.CloseWrite()
	g.waitSummary(g.source(3), "1 ESTABLISHED:FIN_WAIT_2")
	port := finwait.client.LocalAddr().(*net.TCPAddr).Port
	g.lab.Client.lose(g.t, drop{family: g.family, chain: "OUTPUT", match: fmt.Sprintf("--sport %d", port), all: true})
	_ = finwait.server.Close()
	g.waitSummary(g.source(3), "1 CLOSING:FIN_WAIT_2")

	closed := g.open(g.source(4))
	_, _ = closed.client.Close(), closed.server.Close()
	g.waitSummary(g.source(4), "1 FIN_WAIT_2:FIN_WAIT_2")
	g.waitSummary(g.source(2), "1 ESTABLISHED:FIN_WAIT_2")
}

// A rule's own tcp.closing ends a connection that one side has closed: one that the
// server holds is reset there, and its slot is free; one that the server has closed is
// forgotten.
func TestClosingTimeoutOfARule(t *testing.T) {
	runRuleCases(t, []ruleCase{
		{"tcp.closing", []string{"max_src_conn = 1\ntimeouts = { \"tcp.closing\" = \"1s\" }"}, testClosingExpires},
	})
}

func testClosingExpires(c *ruleTest) {
	g := c.on[0]
	byClient, byServer := g.gets(c.first, 1)[0], g.gets(c.first+1, 1)[0]
	began := time.Now()
	_, _ = byClient.client.CloseWrite(), byServer.server.CloseWrite()
	g.waitSummary(g.source(c.first), "1 ESTABLISHED:FIN_WAIT_2")
	g.waitSummary(g.source(c.first+1), "1 FIN_WAIT_2:ESTABLISHED")
	g.waitSummary(g.source(c.first+1), "")
	if d := time.Since(began); d < time.Second {
		c.Errorf("forgotten after %v, want a second or more", d)
	}
	g.waitSummary(g.source(c.first), "") // what the server writes now comes too late
	expectServerReset(c.T, byClient.server)
	g.gets(c.first, 1)
	c.holds(g, 1)
}

// expectServerReset holds that a server's connection, whose client has sent a FIN, is
// reset.
func expectServerReset(t *testing.T, c *net.TCPConn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if err := untilError(c); outcomeOf(err) != Reset {
		t.Errorf("the server hears %v, want a reset", err)
	}
}

const scalingConfig = `
[timeouts]
"tcp.established" = "100s"
%s
[[rule]]
name = "web"
port = [80]
state = %q
%s
[[rule]]
name = "other"
port = [81]
state = "keep"
`

// adaptive.start and adaptive.end shorten lifetimes by the number of all states, or,
// where a rule says them, by that of its own. Under adaptive.end is where the excess
// ends.
func TestAdaptiveTimeouts(t *testing.T) {
	for i, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel() // it waits for states to expire
			g := guardWith(t, fmt.Sprintf(scalingConfig, "", policy, ""), places[i], Families[i], AcceptOptions{Echo: true})
			other := *g
			other.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(81), AcceptOptions{Echo: true}))
			var web []pair
			for i := range 7 {
				web = append(web, g.open(g.source(i)))
			}
			for i := range 2 {
				other.open(g.source(10 + i))
			}
			scaled := func(what string, web, other float64) {
				for _, s := range must[[]control.State](t, "states")(g.fw.States(g.ctx)) {
					expectExpires(t, what, s, map[string]float64{"web": web, "other": other}[s.Rule])
				}
			}
			scaled("not yet", 100, 100)
			g.reloads(fmt.Sprintf(scalingConfig, "adaptive.start = 4\nadaptive.end = 14", policy, ""))
			scaled("by 9 states between 4 and 14", 50, 50)
			g.reloads(fmt.Sprintf(scalingConfig, "adaptive.start = 4\nadaptive.end = 14", policy, `timeouts = { "adaptive.start" = 2, "adaptive.end" = 22 }`))
			scaled("by 7 states between 2 and 22", 75, 50)
			g.reloads(fmt.Sprintf(scalingConfig, "", policy, `timeouts = { "adaptive.start" = 2, "adaptive.end" = 6 }`))
			g.excessEnds(web, 5)
			scaled("by 5 states between 2 and 6", 25, 100)
		})
	}
}

// excessEnds waits until so many connections are left, and looks that both ends of the
// others were reset.
func (g *guarded) excessEnds(all []pair, left int) {
	g.t.Helper()
	if Poll(g.ctx, func() bool { return g.statesOfRule("web") <= left }) != nil {
		g.t.Fatalf("%d states, want %d", g.statesOfRule("web"), left)
	}
	lives := 0
	for _, p := range all {
		_ = p.client.SetDeadline(time.Now().Add(time.Second))
		_, err := p.client.Write([]byte{'.'})
		if err == nil {
			_, err = p.client.Read(make([]byte, 1))
		}
		switch outcomeOf(err) {
		case Held:
			lives++
		case Reset:
		default:
			g.t.Errorf("a client hears %v", err)
		}
	}
	if n := g.statesOfRule("web"); lives != n || n != left {
		g.t.Errorf("%d connections live, with %d states, want %d", lives, n, left)
	}
}

func (g *guarded) statesOfRule(name string) (n int) {
	g.t.Helper()
	for _, s := range must[[]control.State](g.t, "states")(g.fw.States(g.ctx)) {
		if s.Rule == name {
			n++
		}
	}
	return n
}
