package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A damage is what others do to the gateway's tables: commands, with their input.
type damage struct {
	name     string
	commands []string // words parted by spaces
	input    string   // of each
}

// anotherRuleset is what the script of another firewall could load.
const anotherRuleset = `*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A FORWARD -p udp -j ACCEPT
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:OTHERS - [0:0]
-A INPUT -p tcp -j OTHERS
COMMIT
`

// damages are each done to both versions of IP.
var damages = []damage{
	{"iptables -F -X", []string{
		"iptables -t mangle -F", "iptables -t mangle -X", "iptables -t raw -F", "iptables -t raw -X",
		"ip6tables -t mangle -F", "ip6tables -t mangle -X", "ip6tables -t raw -F", "ip6tables -t raw -X",
	}, ""},
	{"iptables -F PREROUTING", []string{"iptables -t mangle -F PREROUTING", "ip6tables -t mangle -F PREROUTING"}, ""},
	{"iptables-restore", []string{"iptables-restore", "ip6tables-restore"}, anotherRuleset},
	// The kernel goes on to track, and to translate numbers, but no timestamps.
	{"iptables -F NFQFW-TRANSLATE", []string{"iptables -t mangle -F NFQFW-TRANSLATE", "ip6tables -t mangle -F NFQFW-TRANSLATE"}, ""},
	{"iptables -F beside others", []string{
		"iptables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "ip6tables -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
		"iptables -t mangle -F", "ip6tables -t mangle -F",
	}, ""},
	{"nft flush ruleset", []string{"nft flush ruleset"}, ""},
	{"nft flush ruleset, and sets", []string{"nft flush ruleset", "ipset destroy"}, ""},
}

// damagedConfig has hooks that refer to a set.
const damagedConfig = `
[table.abusers]
entries = ["203.0.113.0/24"]

[[rule]]
name = "abusers"
action = "block"
quick = true
refuse = "drop"
from = ["<abusers>"]
` + webRule

// repairTime is how long hooks may be missing, on a busy machine.
const repairTime = 10 * time.Second

// Whatever others do to the tables, the hooks are back within seconds, with one line in
// the log; no connection that was established is lost, and the limit holds again.
func TestDamagedHooks(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		for _, d := range damages {
			t.Run(policy+"/"+d.name, func(t *testing.T) {
				all := guardAll(t, fmt.Sprintf(damagedConfig, policy, 10), AcceptOptions{Echo: true})
				b := keepBusy(t, all, 50)
				g := all[0]
				hooked := ourTables(t, g.lab)
				began := time.Now()
				g.damage(d)
				g.waitRepaired(hooked)
				t.Logf("%s: put back %v after it began", d.name, time.Since(began).Round(time.Millisecond))
				for k, g := range all {
					// Ten are held already.
					h := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.busySource(k, 0), To: g.srv.Addr(), N: 3})
					if h.Count(Held) != 0 {
						t.Errorf("over the limit, %s, %v: %v", g.at.name, g.family, h)
					}
				}
				b.expectNoneLost(d.name)
				g.waitLogged(putBack, 1)
			})
		}
	}
}

// Where iptables does not have nftables as its back end, nothing tells of changes, and
// it takes longer to notice them.
func TestDamagedLegacyHooks(t *testing.T) {
	legacy, err := exec.LookPath("xtables-legacy-multi")
	if err != nil {
		t.Skip("iptables has no legacy back end here")
	}
	dir := t.TempDir()
	for _, f := range Families {
		for _, relative := range []string{"", "-save", "-restore"} {
			if err := os.Symlink(legacy, filepath.Join(dir, f.iptables(relative))); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	all := guardAll(t, fmt.Sprintf(damagedConfig, "synproxy", 10), AcceptOptions{Echo: true})
	b := keepBusy(t, all, 20)
	hooked := ourTables(t, all[0].lab)
	time.Sleep(2 * time.Second) // the daemon has looked at the hooks when it began
	began := time.Now()
	all[0].damage(damages[0])
	all[0].waitRepaired(hooked)
	t.Logf("put back %v after it began", time.Since(began).Round(time.Millisecond))
	b.expectNoneLost("legacy")
	all[0].waitLogged(putBack, 1)
}

// Sets that were emptied are filled again, and settings that were changed are changed
// back.
func TestDamagedSetsAndSettings(t *testing.T) {
	g := guardWith(t, fmt.Sprintf(damagedConfig, "keep", 10), places[0], IPv4, AcceptOptions{Echo: true})
	g.damage(damage{commands: []string{"ipset flush", "sysctl -qw net.netfilter.nf_conntrack_acct=0", "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1"}})
	g.waitLogged("entries of sets were removed by somebody; put back", 1)
	g.waitLogged("a setting was changed by somebody; changed back", 1)
	g.waitLogged("the kernel looks at no window", 1)
	out := must[[]byte](t, "ipset")(g.lab.Gateway.Command(g.ctx, "ipset", "save", "NFQFW-abusers-4").Output())
	if !strings.Contains(string(out), "add NFQFW-abusers-4 203.0.113.0/24") {
		t.Errorf("the set has\n%s", out)
	}
	if on := accounting(t, g.lab); on != "1" {
		t.Errorf("accounting is %s", on)
	}
	g.waitLogged(putBack, 0)
}

// Who takes the hooks out again and again has them out for longer each time, and the log
// does not grow by it.
func TestDamagedAgainAndAgain(t *testing.T) {
	g := guard(t, "keep", places[0], IPv4, 10, AcceptOptions{Echo: true})
	hooked := ourTables(t, g.lab)
	times := 0
	for began := time.Now(); time.Since(began) < 5*time.Second; time.Sleep(50 * time.Millisecond) {
		if ourTables(t, g.lab) == hooked {
			g.damage(damages[1])
			times++
		}
	}
	if times < 2 || times > 4 {
		t.Errorf("put back %d times in 5 s, want after 1 and 2 s", times-1)
	}
	g.waitRepaired(hooked)
	g.waitLogged(putBack, times)
}

// Others may have rules of their own wherever they like, and what they do to them is no
// damage.
func TestOthersRulesAreNoDamage(t *testing.T) {
	g := guard(t, "keep", places[0], IPv4, 10, AcceptOptions{Echo: true})
	for range 5 {
		g.damage(damage{commands: []string{
			"iptables -t mangle -I PREROUTING 1 -p udp -j ACCEPT", "iptables -t mangle -I PREROUTING 3 -p udp -j ACCEPT",
			"iptables -A FORWARD -p tcp -j ACCEPT", "nft add table inet others", "nft delete table inet others",
		}})
		time.Sleep(500 * time.Millisecond)
	}
	g.waitLogged(putBack, 0)
}

// putBack is what the log says of a repair.
const putBack = "hooks were removed by somebody; put back"

// waitLogged waits until the log has so many lines with some words, and no more.
func (g *guarded) waitLogged(words string, want int) {
	g.t.Helper()
	n := 0
	if Poll(g.ctx, func() bool { n = strings.Count(g.fw.Log(), words); return n >= want }) != nil || n != want {
		g.t.Errorf("%d lines in the log with %q, want %d", n, words, want)
	}
}

// damage does it.
func (g *guarded) damage(d damage) {
	g.t.Helper()
	for _, line := range d.commands {
		words := strings.Fields(line)
		if err := g.lab.Gateway.Feed(g.ctx, d.input, words[0], words[1:]...); err != nil {
			g.t.Fatalf("%s: %v", line, err)
		}
	}
}

// ourTables are those lines of tables that are about chains of ours.
func ourTables(t *testing.T, l *Lab) string {
	t.Helper()
	var ours strings.Builder
	for line := range strings.Lines(tables(t, l)) {
		if strings.Contains(line, "NFQFW-") {
			ours.WriteString(line)
		}
	}
	return ours.String()
}

// waitRepaired waits until the hooks are as they were.
func (g *guarded) waitRepaired(hooked string) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, repairTime)
	defer cancel()
	if Poll(ctx, func() bool { return ourTables(g.t, g.lab) == hooked }) != nil {
		g.t.Fatalf("after %v the hooks are\n%sand were\n%s\n%s", repairTime, ourTables(g.t, g.lab), hooked, g.fw.Log())
	}
}
