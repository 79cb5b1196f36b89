package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A badFile is one that cannot be taken into force.
type badFile struct {
	name   string
	config string
	wants  []string // words of each line that is told, after the file's name
}

var badFiles = []badFile{
	{"a wrong value", "[[rule]]\nname = \"web\"\nmax_src_conn = \"ten\"\n", []string{`rule 1 ("web"): max_src_conn: `}},
	{"several errors", "[limits]\nstate = 5\n[[rule]]\nport = [70000]\n[[rule]]\nmax = 0\n", []string{
		`limits: state: unknown key; did you mean states?`, "rule 1: port: 70000 is not a port (1-65535)", "rule 2: max: ",
	}},
	{"no TOML", "[[rule]\n", []string{"line 2, column 7: "}},
	{"thousands of errors", strings.Repeat("[[rule]]\nport = [70000]\n", 3000), slicesOf(3000, "rule %d: port: 70000 is not a port (1-65535)")},
}

func slicesOf(n int, format string) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(format, i+1))
	}
	return list
}

// A file with errors changes nothing: all of them are told, with the file and the key,
// to who asked, or to the log; what was in force stays in force.
func TestReloadOfABadFile(t *testing.T) {
	t.Parallel()
	g := guardWith(t, reloaded{"web", "eth0", 80, "synproxy", 3}.config(), places[0], IPv4, AcceptOptions{Echo: true, CloseOnEOF: true})
	end := traffic(g.ctx, t, g.lab, g.family, g.srv.Addr())
	open := g.gets(0, 3)
	hooked := tables(t, g.lab)
	unchanged := func(after string) {
		t.Helper()
		checkTables(t, g.lab, after, hooked)
		g.allEcho(open)
		g.isRefused(0, after)
	}
	for _, bad := range badFiles {
		out, err := g.fw.Reload(g.ctx, bad.config)
		if lines := strings.Split(strings.TrimSpace(out), "\n"); err == nil || !bad.toldBy(lines, g.fw.config) {
			t.Errorf("%s: reload prints, with %v:\n%.2000s", bad.name, err, out)
		}
		g.hangup(bad.config, "not reloaded; what was in force stays in force")
		unchanged(bad.name)
	}
	if want := g.fw.config + `: rule 1 (\"web\"): max_src_conn: `; !strings.Contains(g.fw.Log(), want) {
		t.Errorf("the log does not say %s", want)
	}
	end()
}

// toldBy says whether lines tell the errors, each with the file's name.
func (b *badFile) toldBy(lines []string, file string) bool {
	if len(lines) != len(b.wants) {
		return false
	}
	for i, want := range b.wants {
		if !strings.Contains(lines[i], file+": "+want) {
			return false
		}
	}
	return true
}

// Nor does a file that cannot be read, or one that asks for what takes a restart.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	r := reloaded{"web", "eth0", 80, "keep", 3}
	g := guardWith(t, r.config(), places[1], IPv6, AcceptOptions{Echo: true})
	open := g.gets(0, 3)
	hooked := tables(t, g.lab)
	refused := func(what, want string) {
		t.Helper()
		out, err := g.fw.Command(g.ctx, "reload")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: reload prints, with %v:\n%swant %s", what, err, out, want)
		}
		checkTables(t, g.lab, "after "+what, hooked)
		g.allEcho(open)
		g.isRefused(0, "after "+what)
	}
	configure := func(config string) {
		t.Helper()
		if err := g.fw.Configure(config); err != nil {
			t.Fatal(err)
		}
	}
	configure("[daemon]\nqueues = 7\n" + r.config())
	refused("another number of queues", "daemon: queues: 7 instead of ")
	if err := os.Remove(g.fw.config); err != nil {
		t.Fatal(err)
	}
	refused("a missing file", g.fw.config+": no such file or directory")
	if err := os.Mkdir(g.fw.config, 0o755); err != nil {
		t.Fatal(err)
	}
	refused("a directory", g.fw.config+": is a directory")
	if err := os.Remove(g.fw.config); err != nil {
		t.Fatal(err)
	}
	r.limit = 4
	configure(r.config())
	if out, err := g.fw.Command(g.ctx, "reload"); err != nil || out != "reloaded: 1 rule\n" {
		t.Errorf("a good file at last: %v %s", err, out)
	}
	g.gets(0, 1)

	g.moveSocket(r.config())
}

// moveSocket has the file name the control socket, and then another one.
func (g *guarded) moveSocket(config string) {
	g.t.Helper()
	name := func(socket string) string { return fmt.Sprintf("[daemon]\ncontrol = %q\n%s", socket, config) }
	if err := g.fw.Stop(); err != nil {
		g.t.Fatal(err)
	}
	if err := g.fw.Configure(name(g.fw.socket)); err != nil {
		g.t.Fatal(err)
	}
	daemon := g.lab.Gateway.Command(g.ctx, g.fw.binary, "run", "-c", g.fw.config)
	if err := daemon.Start(); err != nil {
		g.t.Fatal(err)
	}
	ready := func() bool { _, err := g.fw.States(g.ctx); return err == nil }
	if err := Poll(g.ctx, ready); err != nil {
		g.t.Fatal(err)
	}
	other := filepath.Join(filepath.Dir(g.fw.socket), "other.sock")
	out, err := g.fw.Reload(g.ctx, name(other))
	if want := fmt.Sprintf("daemon: control: %q instead of %q takes a restart", other, g.fw.socket); err == nil || !strings.Contains(out, want) {
		g.t.Errorf("another control socket: reload prints, with %v:\n%swant %s", err, out, want)
	}
	if !ready() {
		g.t.Errorf("the daemon does not answer any more")
	}
	if err := daemon.Stop(); err != nil {
		g.t.Errorf("stop: %v", err)
	}
}
