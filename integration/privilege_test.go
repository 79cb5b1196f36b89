package integration

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// blockingRule has the daemon run ipset, besides iptables.
const blockingRule = `
[table.bad]
entries = ["203.0.113.0/24"]

[[rule]]
action = "block"
quick = true
from = ["<bad>"]
`

// unprivileged are the words that start a program as nobody who may still filter packets.
const (
	bounded      = "setpriv --bounding-set=-all,+net_admin,+net_raw"
	unprivileged = bounded + " --reuid=65534 --regid=65534 --clear-groups --no-new-privs" +
		" --inh-caps=-all,+net_admin,+net_raw --ambient-caps=-all,+net_admin,+net_raw"
)

// With CAP_NET_ADMIN and CAP_NET_RAW alone, as root or not, the daemon does all that it
// does; and it has no others, however many it was started with.
func TestLeastPrivilege(t *testing.T) {
	Require(t, Program("setpriv"), Program("iptables-legacy-restore"))
	legacy := "env PATH=" + legacyTools(t) + ":" + os.Getenv("PATH")
	for _, tt := range []struct{ name, through string }{
		{"all capabilities", "env"},
		{"root", bounded + " --no-new-privs"},
		{"root, and not all of it is dropped yet", "setpriv --bounding-set=-setpcap"},
		{"nobody", unprivileged},
		{"legacy", legacy},
		{"nobody, legacy", legacy + " XTABLES_LOCKFILE=%s/lock " + unprivileged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			through := strings.Fields(strings.ReplaceAll(tt.through, "%s", openFolder(t)))
			testPrivilege(t, through, strings.Contains(tt.name, "legacy"))
		})
	}
}

func testPrivilege(t *testing.T, through []string, legacy bool) {
	ctx, l := testContext(t), newLab(t, Options{})
	Require(t, IPTables)
	binary := must[string](t, "build")(program())
	config := blockingRule + fmt.Sprintf(webRule, "synproxy", 1)
	fw := must[*Firewall](t, "firewall")(l.Gateway.StartFirewallThrough(ctx, through, binary, config))
	stopAtEnd(t, fw)
	checkConfined(t, fw.Pid())
	_, conns := openSessions(ctx, t, l, places[0], IPv4, 1)
	over := l.Client.Hold(ctx, HoldOptions{From: ClientAddr(IPv4, 0), To: netip.AddrPortFrom(places[0].addr(IPv4), 80), N: 1})
	if over.Count(Held) != 0 {
		t.Error("a connection over the limit is held")
	}
	if out, err := fw.Reload(ctx, blockingRule+fmt.Sprintf(webRule, "synproxy", 2)); err != nil {
		t.Errorf("reload: %v: %s", err, out)
	}
	if out, err := fw.Command(ctx, "kill", "--all"); err != nil || !strings.Contains(out, "1") {
		t.Errorf("kill: %v: %s", err, out)
	}
	_ = conns[0].Close()
	if err := fw.Stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if legacy {
		return // tables shows the other back end's
	}
	if got := tables(t, l); strings.Contains(got, "NFQFW") {
		t.Errorf("left behind:\n%s", got)
	}
}

// legacyTools is a folder in which the tools of iptables are the legacy ones.
func legacyTools(t *testing.T) string {
	dir := openFolder(t)
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"save", "restore"} {
			target := must[string](t, "readlink")(filepath.EvalSymlinks("/usr/sbin/" + tool + "-legacy"))
			if err := os.Symlink(target, filepath.Join(dir, tool+"-"+verb)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// openFolder is one that every user may use.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := must[string](t, "mkdir")(os.MkdirTemp("", "nfqfw-"))
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkConfined looks at every thread of a process.
func checkConfined(t *testing.T, pid int) {
	t.Helper()
	if raceEnabled {
		return // the program is linked with C, and its log says so
	}
	files := must[[]string](t, "threads")(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid)))
	if len(files) < 2 {
		t.Fatalf("%d threads", len(files))
	}
	const only = "0000000000003000" // CAP_NET_ADMIN and CAP_NET_RAW
	want := map[string]string{"CapInh": only, "CapPrm": only, "CapEff": only, "CapAmb": only, "NoNewPrivs": "1"}
	for _, file := range files {
		status := string(must[[]byte](t, "status")(os.ReadFile(file)))
		for line := range strings.Lines(status) {
			if key, value, _ := strings.Cut(line, ":"); want[key] != "" && strings.TrimSpace(value) != want[key] {
				t.Errorf("%s: %s", file, line)
			}
		}
	}
}

// A member of the group asks and is answered; another user is not.
func TestControlGroup(t *testing.T) {
	ctx, l := testContext(t), newLab(t, Options{})
	Require(t, Program("setpriv"))
	fw := startFirewall(t, l, "[daemon]\ncontrol_group = \"65533\"\n"+fmt.Sprintf(webRule, "keep", 1))
	info := must[os.FileInfo](t, "socket")(os.Stat(fw.socket))
	if info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v", info.Mode())
	}
	for _, tt := range []struct {
		gid, refused string
	}{
		{"65533", ""},
		{"65534", "permission denied; only the user that runs the daemon, or the group"},
	} {
		out, err := l.Gateway.Command(ctx, "setpriv", "--reuid=65534", "--regid="+tt.gid, "--clear-groups",
			fw.binary, "info", "--control", fw.socket).CombinedOutput()
		if refused := tt.refused != ""; refused != (err != nil) || !strings.Contains(string(out), tt.refused) {
			t.Errorf("group %s: %v: %s", tt.gid, err, out)
		}
	}
	if out, err := fw.Reload(ctx, fmt.Sprintf(webRule, "keep", 1)); err == nil || !strings.Contains(out, `control_group: "" instead of "65533" takes a restart`) {
		t.Errorf("reload: %v: %s", err, out)
	}
}

// Who may not give the socket to the group says so, before anything has changed.
func TestControlGroupOfOthers(t *testing.T) {
	ctx, l := testContext(t), newLab(t, Options{})
	Require(t, IPTables, Program("setpriv"))
	binary := must[string](t, "build")(program())
	config := "[daemon]\ncontrol_group = \"65533\"\n" + fmt.Sprintf(webRule, "keep", 1)
	_, err := l.Gateway.StartFirewallThrough(ctx, strings.Fields(unprivileged), binary, config)
	if err == nil || !strings.Contains(err.Error(), "may not be given to the group 65533; run as a member of it") {
		t.Errorf("got %v", err)
	}
	if got := tables(t, l); strings.Contains(got, "NFQFW") {
		t.Errorf("changed:\n%s", got)
	}
}
