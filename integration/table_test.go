package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/control"
)

// tableConfig has a table of sources that are blocked, beside a web server. %s are
// the table's keys and the web server's policy.
const tableConfig = `
[table.abusers]
%s
[[rule]]
name   = "abusers"
action = "block"
from   = ["<abusers>"]
quick  = true
[[rule]]
name  = "web"
port  = [80]
state = %q
`

// dialTime is how long a client tries that may be blocked: less than until its
// second SYN.
const dialTime = 400 * time.Millisecond

// getsIn says whether a source comes to the server.
func (g *guarded) getsIn(from netip.Addr) bool {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, dialTime)
	defer cancel()
	c, err := g.lab.Client.Dial(ctx, netip.AddrPortFrom(from, 0), g.srv.Addr())
	if err != nil {
		return false
	}
	abort(c)
	return true
}

func (g *guarded) wantIn(when string, from netip.Addr, want bool) {
	g.t.Helper()
	if got := g.getsIn(from); got != want {
		g.t.Errorf("%s, %s %s: in: %v, want %v", g.at.name, from, when, got, want)
	}
}

// comesIn waits for a source to come to the server, for as long as the kernel may take
// to hear of it on a busy machine.
func (g *guarded) comesIn(when string, from netip.Addr) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, 4*time.Second)
	defer cancel()
	if err := Poll(ctx, func() bool { return g.getsIn(from) }); err != nil {
		g.t.Errorf("%s, %s %s is not in", g.at.name, from, when)
	}
}

// inSet waits until the kernel has heard that an address is in the table.
func (g *guarded) inSet(a netip.Addr) {
	g.t.Helper()
	set := "NFQFW-abusers-4"
	if a.Is6() {
		set = "NFQFW-abusers-6"
	}
	err := Poll(g.ctx, func() bool {
		return g.lab.Gateway.Command(g.ctx, "ipset", "test", set, a.String()).Run() == nil
	})
	if err != nil {
		g.t.Fatalf("%s is not in the set %s: %v", a, set, err)
	}
}

// table runs a command on the table.
func (g *guarded) table(words ...string) string {
	g.t.Helper()
	out, err := g.fw.Command(g.ctx, append([]string{"table", "abusers"}, words...)...)
	if err != nil {
		g.t.Fatalf("table %v: %v %s", words, err, out)
	}
	return out
}

// sets are the names of the gateway's sets in the kernel.
func (g *guarded) sets() string {
	g.t.Helper()
	out := must[[]byte](g.t, "ipset")(g.lab.Gateway.Command(g.t.Context(), "ipset", "list", "-name").Output())
	return strings.Join(strings.Fields(string(out)), " ")
}

// traffic is what the firewall has seen: packets queued, and those it counted. It waits
// for what others' connections still have to say: a server is asked what it has made
// of a RST, and answers up to seconds later.
func (g *guarded) traffic() string {
	g.t.Helper()
	var list []control.State
	err := Poll(g.ctx, func() bool {
		list = must[[]control.State](g.t, "states")(g.fw.States(g.ctx))
		return !slices.ContainsFunc(list, unsettled)
	})
	if err != nil {
		g.t.Fatalf("there is more to come: %s", summary(list))
	}
	queued := must[uint64](g.t, "queued")(g.lab.Gateway.Queued())
	info, err := g.fw.Info(g.ctx)
	if err != nil {
		g.t.Fatal(err)
	}
	return fmt.Sprint(queued, info.Counters)
}

// unsettled says whether packets are under way for a state whose ends have nothing to
// send.
func unsettled(s control.State) bool {
	return !slices.Contains([]string{"ESTABLISHED:ESTABLISHED", "FIN_WAIT_2:FIN_WAIT_2", "TIME_WAIT:TIME_WAIT"}, s.State)
}

func needIPSet(t *testing.T) {
	t.Helper()
	Require(t, Program("ipset"))
}

// A source that a command blocks costs nothing in user space, and what it had open
// goes on and ends as it should.
func TestBlockedInKernel(t *testing.T) {
	needIPSet(t)
	for _, policy := range []string{"keep", "synproxy"} {
		t.Run(policy, func(t *testing.T) {
			for _, g := range guardAll(t, fmt.Sprintf(tableConfig, "", policy), AcceptOptions{Echo: true, CloseOnEOF: true}) {
				bad, good := g.source(1), g.source(2)
				open := g.open(bad)
				if out := g.table("add", bad.String()); out != "1/1 addresses added.\n" {
					t.Errorf("add: %q", out)
				}
				before := g.traffic()
				for range 3 {
					g.wantIn("when it is blocked", bad, false)
				}
				if after := g.traffic(); after != before {
					t.Errorf("%s: a blocked source was heard of: %s, before %s", g.at.name, after, before)
				}
				g.wantIn("when another is blocked", good, true)
				echo(t, open.client)
				closeSession(t, open.client)
				if out := g.table("show", "-v"); !strings.Contains(out, "In/Block:    [ Packets: 3 ") || !strings.Contains(out, "Origin:      command\n") {
					t.Errorf("show -v: %s", out)
				}
				g.table("delete", bad.String())
				g.wantIn("when it is deleted", bad, true)
			}
		})
	}
}

// A network is blocked, but for one address; and what has a time to live, until then.
func TestTableEntries(t *testing.T) {
	needIPSet(t)
	for _, g := range guardAll(t, fmt.Sprintf(tableConfig, `ttl = "1s"`, "keep"), AcceptOptions{}) {
		a, b := g.source(1), g.source(2)
		network := netip.PrefixFrom(a, map[Family]int{IPv4: 24, IPv6: 48}[g.family]).Masked().String()
		g.table("add", network, "!"+b.String(), "--ttl", "0")
		g.wantIn("in a blocked network", a, false)
		g.wantIn("that is taken out", b, true)
		g.table("delete", "!"+b.String())
		g.wantIn("that is not taken out any more", b, false)
		g.table("flush")
		g.wantIn("after a flush", a, true)
		g.table("add", a.String()) // for a second
		g.wantIn("before its time is over", a, false)
		g.comesIn("when its time is over", a)
		if out := g.table("show"); out != "" {
			t.Errorf("what has run out is shown: %s", out)
		}
	}
}

// A source over its limit goes into the table, and is blocked in the kernel.
func TestOverloadBlocksInKernel(t *testing.T) {
	needIPSet(t)
	const config = tableConfig + "max_src_conn = 2\noverload = \"abusers\"\nsource_prefix_v6 = 128\n"
	for _, g := range guardAll(t, fmt.Sprintf(config, `ttl = "1h"`, "synproxy"), AcceptOptions{Echo: true}) {
		bad := g.source(1)
		open := []pair{g.open(bad), g.open(bad)}
		_ = g.getsIn(bad) // its handshake is over before it is refused
		err := Poll(g.ctx, func() bool { return strings.Contains(g.table("show"), bad.String()) })
		if err != nil {
			t.Fatalf("%s: %s is not in the table", g.at.name, bad)
		}
		g.inSet(bad)
		before := g.traffic()
		g.wantIn("that overloads", bad, false)
		if after := g.traffic(); after != before {
			t.Errorf("%s: a blocked source was heard of: %s, before %s", g.at.name, after, before)
		}
		for _, p := range open {
			abort(p.client)
		}
		g.table("flush")
	}
}

// The file's entries are blocked from the start, and a reload changes them; what was
// added meanwhile stays. The sets are gone when the daemon stops, and after it was
// killed the next one takes them over.
func TestTableLifecycle(t *testing.T) {
	needIPSet(t)
	g := guardWith(t, "", places[0], IPv4, AcceptOptions{})
	list := g.fw.config + ".abusers"
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := g.sets(); got != "" {
		t.Errorf("sets without a table: %s", got)
	}
	a, b, c := g.source(1), g.source(2), g.source(3)
	write(list, a.String()+" # written\n")
	write(g.fw.config, fmt.Sprintf(tableConfig, fmt.Sprintf("file = %q", list), "keep"))
	reload := func() {
		t.Helper()
		if out, err := g.fw.Command(g.ctx, "reload"); err != nil {
			t.Fatalf("reload: %v %s", err, out)
		}
	}
	reload()
	if got := g.sets(); got != "NFQFW-abusers-4 NFQFW-abusers-6" {
		t.Errorf("sets: %s", got)
	}
	g.wantIn("in the file", a, false)
	g.wantIn("not in the file", b, true)
	g.table("add", c.String())
	write(list, b.String()+"\nnobody\n")
	if out, err := g.fw.Command(g.ctx, "reload"); err == nil || !strings.Contains(out, `line 2: "nobody" is not an address`) {
		t.Errorf("reload of a wrong file: %v %s", err, out)
	}
	g.wantIn("in the file before", a, false)
	write(list, b.String()+"\n")
	reload()
	g.wantIn("not in the file any more", a, true)
	g.wantIn("in the new file", b, false)
	g.wantIn("added by command", c, false)
	if err := g.fw.Kill(); err != nil {
		t.Fatal(err)
	}
	g.wantIn("after kill -9", b, false)
	if err := g.fw.Start(g.ctx); err != nil {
		t.Fatal(err)
	}
	g.wantIn("after a restart", b, false)
	g.wantIn("that was added before the restart", c, true)
	write(g.fw.config, "[[rule]]\nport = [80]\n")
	reload()
	if got := g.sets(); got != "" {
		t.Errorf("sets of tables that are gone: %s", got)
	}
	g.wantIn("of no table", b, true)
	write(g.fw.config, fmt.Sprintf(tableConfig, `entries = ["10.0.0.0/8"]`, "keep"))
	reload()
	if err := g.fw.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if got := g.sets(); got != "" {
		t.Errorf("sets after the stop: %s", got)
	}
}
