package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"nfqfw/internal/bpf"
	"nfqfw/internal/ipset"
	"nfqfw/internal/netnstest"
)

// The tests in this file install hooks in network namespaces of their own,
// with each back end of iptables that the machine has.

// needRoot skips a test, but not where all tests are expected to run.
func needRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("not root: in CI this test must run")
	}
	t.Skip("not root: cannot make a network namespace")
}

// newNamespace moves the test into a new network namespace until it ends.
// What the test executes, and the sockets it opens itself, are there.
func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		inside.Close()
		err := netns.Set(before)
		before.Close()
		if err != nil {
			// The thread stays locked, so that the runtime ends it with the test.
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	})
	return inside
}

// backends runs a test with each back end that is there.
func backends(t *testing.T, test func(t *testing.T)) {
	needRoot(t)
	tests := 0
	for _, backend := range []string{"nft", "legacy"} {
		path, err := exec.LookPath("xtables-" + backend + "-multi")
		if err != nil {
			continue
		}
		tests++
		t.Run(backend, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range Families {
				for _, verb := range []string{"save", "restore"} {
					must(t, os.Symlink(path, filepath.Join(dir, f.command(verb))))
				}
			}
			t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
			test(t)
		})
	}
	if tests == 0 {
		t.Run("default", test)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newHooks(c Config) *Hooks { return New(c, slog.New(slog.DiscardHandler)) }

// dumpTables is what iptables-save says of all tables we touch, less comments.
func dumpTables(t *testing.T) string {
	t.Helper()
	var kept []string
	for _, f := range Families {
		for _, table := range []string{"raw", "mangle"} {
			out, err := run(t.Context(), "", f.command("save"), "-t", table)
			must(t, err)
			for line := range strings.Lines(out) {
				if !strings.HasPrefix(line, "#") {
					kept = append(kept, line)
				}
			}
		}
	}
	return strings.Join(kept, "")
}

// others is what an administrator could have in the tables.
const others = `*raw
:ADMIN - [0:0]
-A PREROUTING -p udp -j ADMIN
-A ADMIN -m comment --comment "see -j NFQFW-QUEUE" -j RETURN
COMMIT
*mangle
:NFQ - [0:0]
-A PREROUTING -m mark --mark 0x1/0xff -j NFQ
-A FORWARD -p tcp -j MARK --set-xmark 0x2/0xff
COMMIT
`

func installOthers(t *testing.T) string {
	t.Helper()
	for _, f := range Families {
		must(t, restore(t.Context(), f, others))
	}
	return dumpTables(t)
}

func checkTables(t *testing.T, what, want string) {
	t.Helper()
	if diff := cmp.Diff(want, dumpTables(t)); diff != "" {
		t.Errorf("%s: -want +got:\n%s", what, diff)
	}
}

func TestInstallAndRemove(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		before := installOthers(t)
		h := newHooks(golden["union"])
		must(t, h.Remove(t.Context()))
		checkTables(t, "remove what is not there", before)

		must(t, h.Install(t.Context()))
		once := dumpTables(t)
		if !h.Timestamps() || strings.Count(once, "-j SYNPROXY") != 2 {
			t.Errorf("no timestamps, with these tables:\n%s", once)
		}
		if !strings.Contains(once, ":PREROUTING ACCEPT [0:0]") || strings.Count(once, "-j NFQFW-PREROUTING") != 4 {
			t.Errorf("tables after install:\n%s", once)
		}
		must(t, h.Install(t.Context()))
		checkTables(t, "install twice", once)

		must(t, h.Remove(t.Context()))
		checkTables(t, "remove", before)
		must(t, h.Remove(t.Context()))
		checkTables(t, "remove twice", before)
	})
}

// What has been retired are the chains that keep open connections going, with the
// rules that were in them; installing and removing know them again.
func TestRetire(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		before := installOthers(t)
		h := newHooks(golden["web"])
		must(t, h.Install(t.Context()))
		once := dumpTables(t)
		must(t, h.Retire(t.Context()))
		retired := dumpTables(t)
		if added := difference(retired, before); !slices.Equal(added, afterRetire) {
			t.Errorf("retired:\n%s", strings.Join(added, "\n"))
		}
		if lost := difference(before, retired); len(lost) > 0 {
			t.Errorf("taken from others:\n%s", strings.Join(lost, "\n"))
		}
		must(t, h.Retire(t.Context()))
		checkTables(t, "retire again", retired)
		must(t, h.Install(t.Context()))
		checkTables(t, "install again", once)
		must(t, h.Retire(t.Context()))
		must(t, h.Remove(t.Context()))
		checkTables(t, "remove", before)
	})
}

// afterRetire are the lines that retired hooks add, for each version of IP.
var afterRetire = slices.Repeat([]string{
	":NFQFW-CLOSING - [0:0]",
	":NFQFW-TRANSLATE - [0:0]",
	"-A PREROUTING -p tcp -m tcp --tcp-flags FIN FIN -j NFQFW-CLOSING",
	"-A OUTPUT -p tcp -m tcp --tcp-flags FIN FIN -j NFQFW-CLOSING",
	"-A NFQFW-CLOSING -m conntrack --ctstate ESTABLISHED --ctdir ORIGINAL -m connmark ! --mark 0x0/0xf0000000 -m connmark ! --mark 0x30000000/0xf0000000 -j CONNMARK --set-xmark 0x20000000/0x70000000",
	"-A NFQFW-CLOSING -m conntrack --ctstate ESTABLISHED --ctdir REPLY -m connmark ! --mark 0x0/0xf0000000 -m connmark ! --mark 0x30000000/0xf0000000 -j CONNMARK --set-xmark 0xa0000000/0xf0000000",
	"-A NFQFW-TRANSLATE -m conntrack --ctstate INVALID -j RETURN",
	"-A NFQFW-TRANSLATE -p tcp -j SYNPROXY",
}, len(Families))

// difference are the lines of a that b does not have.
func difference(a, b string) (lines []string) {
	have := strings.Split(b, "\n")
	for line := range strings.SplitSeq(a, "\n") {
		if !slices.Contains(have, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestJumpsComeFirst(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		installOthers(t)
		must(t, newHooks(golden["web"]).Install(t.Context()))
		seen := make(map[string]bool)
		for line := range strings.Lines(dumpTables(t)) {
			if strings.HasPrefix(line, "*") {
				clear(seen)
			}
			words := strings.Fields(line)
			if words[0] != "-A" || seen[words[1]] || strings.HasPrefix(words[1], prefix) || words[1] == "ADMIN" {
				continue
			}
			seen[words[1]] = true
			if target := words[len(words)-1]; !strings.HasPrefix(target, prefix) {
				t.Errorf("first rule is %q, want a jump to a chain of ours", line)
			}
		}
	})
}

// What a killed daemon left, and more than one could leave, is taken over.
func TestStaleHooks(t *testing.T) {
	const stale = `*raw
:NFQFW-PREROUTING - [0:0]
-A NFQFW-PREROUTING -p tcp --dport 1 -j RETURN
-A PREROUTING -p tcp -j NFQFW-PREROUTING
-A PREROUTING -p tcp -j NFQFW-PREROUTING
-A ADMIN -j NFQFW-PREROUTING
COMMIT
*mangle
:NFQFW-QUEUE - [0:0]
:NFQFW-OLD - [0:0]
-A NFQFW-QUEUE -j NFQFW-OLD
-A POSTROUTING -p tcp -m comment --comment "a b" -j NFQFW-QUEUE
COMMIT
`
	backends(t, func(t *testing.T) {
		newNamespace(t)
		before := installOthers(t)
		old, h := newHooks(golden["everything"]), newHooks(golden["web"])

		must(t, h.Install(t.Context()))
		want := dumpTables(t)
		must(t, old.Install(t.Context()))
		must(t, h.Install(t.Context()))
		checkTables(t, "install over another configuration", want)
		must(t, h.Remove(t.Context()))

		for _, f := range Families {
			must(t, restore(t.Context(), f, stale))
		}
		must(t, h.Remove(t.Context()))
		checkTables(t, "remove half an installation", before)

		for _, f := range Families {
			must(t, restore(t.Context(), f, stale))
		}
		must(t, h.Install(t.Context()))
		// The old chain is empty and nothing leads to it.
		if got := strings.ReplaceAll(dumpTables(t), ":NFQFW-OLD - [0:0]\n", ""); got != want {
			t.Errorf("install over half an installation:\n%s", got)
		}
		must(t, h.Remove(t.Context()))
		checkTables(t, "remove after an installation over half a one", before)
	})
}

// makeSets makes the sets that the hooks refer to.
func makeSets(t *testing.T, c Config) {
	t.Helper()
	var text strings.Builder
	for _, name := range Tables(c.Rules) {
		ipset.Create(&text, name, 10)
	}
	_, err := run(t.Context(), text.String(), ipset.Tool, "-exist", "restore")
	must(t, err)
}

func TestIptablesAcceptsGoldenFiles(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		for name, c := range golden {
			makeSets(t, c)
			pinPrograms(t, &c)
			for _, f := range Families {
				if err := restore(t.Context(), f, Rules(c, f)); err != nil {
					t.Errorf("%s, %s: %v", name, f, err)
				}
				present, err := read(t.Context(), f)
				must(t, err)
				must(t, restore(t.Context(), f, removal(present)))
			}
		}
	})
}

// pinPrograms has the programs there that hooks refer to, if they do.
func pinPrograms(t *testing.T, c *Config) {
	t.Helper()
	if c.Programs == nil {
		return
	}
	p, err := bpf.Open(0, nil)
	must(t, err)
	must(t, p.Pin())
	t.Cleanup(func() { must(t, errors.Join(p.Unpin(), p.Close())) })
	c.Programs = &Programs{Opens: p.Opens(), Admits: p.Admits(), Records: p.Records(), Unproven: p.Unproven()}
}

// Without what the programs take, the hooks do without them: where they are not, and where
// the back end would look for them again and again.
func TestInstallWithoutPrograms(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		h := newHooks(golden["granted"])
		must(t, h.Install(t.Context()))
		if h.Grants() {
			t.Error("rules ask programs that are not there")
		}
		want := golden["granted"]
		want.Programs = nil
		if h.Text() != newHooks(want).Text() {
			t.Error("the hooks are not those without the programs")
		}
		intact, err := h.Intact(t.Context())
		if !intact || err != nil {
			t.Errorf("intact %v: %v", intact, err)
		}
		must(t, h.Remove(t.Context()))
	})
}

// Forwards finds what iptables has in the kernel, and makes no table to look.
func TestForwards(t *testing.T) {
	backends(t, func(t *testing.T) {
		newNamespace(t)
		got, err := Forwards(t.Context())
		must(t, err)
		checkForwards(t, got)
		for _, f := range Families {
			if out, err := run(t.Context(), "", f.command("save")); err != nil || strings.Contains(out, "*nat") {
				t.Errorf("there is a table: %v\n%s", err, out)
			}
		}
		must(t, restore(t.Context(), IPv4, "*nat\n-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:8080\n"+
			"-A PREROUTING -p udp -j DNAT --to-destination 10.0.0.2\n-A OUTPUT -p tcp -m tcp --dport 81 -j REDIRECT --to-ports 82\n"+
			"-A POSTROUTING -j MASQUERADE\nCOMMIT\n"))
		must(t, restore(t.Context(), IPv6, "*nat\n-A PREROUTING -i eth+ -p tcp -j DNAT --to-destination [2001:db8::2]:8080\nCOMMIT\n"))
		setUp(t, "lo", "192.0.2.9/32")
		got, err = Forwards(t.Context())
		must(t, err)
		checkForwards(t, got, "IPv4 192.0.2.1/32 80-80 > 10.0.0.2/32 8080-8080", "IPv4 local any 81-81 > 127.0.0.1/32,192.0.2.9/32 82-82",
			"IPv6 eth* any > 2001:db8::2/128 8080-8080")
	})
}

// Rules that are native to nftables are not iptables' to tell.
func TestForwardsOfNFTables(t *testing.T) {
	newNamespace(t)
	if _, err := exec.LookPath("nft"); err != nil {
		netnstest.Skip(t, "no nft; make setup installs it")
	}
	// nft does not read all that it writes.
	readable := strings.NewReplacer("10.0.0.4/31:1-9", "10.0.0.4-10.0.0.5:1-9", "2001:db8::2/127:8080", "[2001:db8::2]-[2001:db8::3]:8080")
	_, err := run(t.Context(), readable.Replace(natFile(t, "nft.txt")), "nft", "-f", "-")
	must(t, err)
	setUp(t, "lo", "203.0.113.1/32")
	got, err := Forwards(t.Context())
	must(t, err)
	want := parseRuleset(natFile(t, "nft.txt"), []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("203.0.113.1/32"), netip.MustParsePrefix("::1/128"),
	})
	if len(want) == 0 {
		t.Fatal("the file has no forwards")
	}
	for _, f := range want {
		if !slices.ContainsFunc(got, f.same) {
			t.Errorf("%s is missing", f.brief())
		}
	}
}

// Without privileges nobody can tell; without tools there is nothing to tell.
func TestForwardsUnknown(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if got, err := Forwards(t.Context()); len(got) != 0 || err != nil {
		t.Errorf("without tools: %v, %v", got, err)
	}
	const refuses = "#!/bin/sh\necho 'iptables-save v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)' >&2\nexit 4\n"
	must(t, os.WriteFile(filepath.Join(dir, "ip6tables-save"), []byte(refuses), 0o755))
	const want = "hooks: ip6tables-save: permission denied; run as root (CAP_NET_ADMIN)"
	if _, err := Forwards(t.Context()); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Where iptables refuses the target SYNPROXY, as one without the extension does,
// and where the kernel lacks it for one version of IP, the hooks do without.
func TestWithoutSynproxy(t *testing.T) {
	backends(t, func(t *testing.T) {
		for _, lacking := range Families {
			t.Run(lacking.String(), func(t *testing.T) {
				newNamespace(t)
				refuseSynproxy(t, lacking)
				var log bytes.Buffer
				h := New(golden["web"], slog.New(slog.NewTextHandler(&log, nil)))
				must(t, h.Install(t.Context()))
				if h.Timestamps() {
					t.Error("timestamps are said to be translated")
				}
				got := dumpTables(t)
				if strings.Contains(got, "SYNPROXY") || strings.Count(got, "-j NFQFW-PREROUTING") != 4 {
					t.Errorf("tables:\n%s", got)
				}
				if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "SYNPROXY': No such file") {
					t.Errorf("%d warnings:\n%s", n, log.String())
				}
				must(t, h.Remove(t.Context()))
			})
		}
	})
}

// refuseSynproxy puts a tool into PATH that says what iptables says when it
// cannot load a target.
func refuseSynproxy(t *testing.T, f Family) {
	t.Helper()
	real, err := exec.LookPath(f.command("restore"))
	must(t, err)
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ninput=$(cat)\ncase $input in *SYNPROXY*)\n"+
		"\techo \"iptables-restore v1.8.9: Couldn't load target \\`SYNPROXY': No such file or directory\" >&2\n\texit 2;;\nesac\n"+
		"echo \"$input\" | exec %s \"$@\"\n", real)
	must(t, os.WriteFile(filepath.Join(dir, f.command("restore")), []byte(script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// While nobody listens: connections that are open go on and close, and new
// ones obey the configuration.
//
//	client 10.99.0.2 ── veth ── 10.99.0.1 server, hooks
func TestNobodyListens(t *testing.T) {
	server := newNamespace(t)
	client := newNamespace(t)
	connect(t, client, server)

	must(t, netns.Set(server))
	// Without a rule that asks for it, the kernel does not track connections.
	must(t, restore(t.Context(), IPv4, "*mangle\n-A INPUT -m conntrack --ctstate INVALID\nCOMMIT\n"))
	l, err := net.Listen("tcp4", "10.99.0.1:8080")
	must(t, err)
	defer l.Close()
	go echo(l)

	must(t, netns.Set(client))
	before, err := dial()
	must(t, err)
	exchange(t, before)

	must(t, netns.Set(server))
	closed := newHooks(Config{LastQueue: 1, Rules: golden["everything"].Rules})
	must(t, closed.Install(t.Context()))

	must(t, netns.Set(client))
	exchange(t, before)
	if c, err := dial(); err == nil {
		c.Close()
		t.Error("when_down is closed, and a new connection opened")
	}
	finish(t, before)

	must(t, netns.Set(server))
	open := newHooks(Config{LastQueue: 1, Open: true, Rules: golden["everything"].Rules})
	must(t, open.Install(t.Context()))

	must(t, netns.Set(client))
	during, err := dial()
	must(t, err)
	exchange(t, during)
	finish(t, during)
}

// connect joins two namespaces by a pair of interfaces.
func connect(t *testing.T, client, server netns.NsHandle) {
	t.Helper()
	must(t, netns.Set(server))
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "net0"}, PeerName: "net1", PeerNamespace: netlink.NsFd(client),
	}))
	setUp(t, "net0", "10.99.0.1/24")
	must(t, netns.Set(client))
	setUp(t, "net1", "10.99.0.2/24")
}

func setUp(t *testing.T, name, address string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	addr, err := netlink.ParseAddr(address)
	must(t, err)
	must(t, netlink.AddrAdd(link, addr))
	must(t, netlink.LinkSetUp(link))
}

func dial() (net.Conn, error) { return net.DialTimeout("tcp4", "10.99.0.1:8080", time.Second) }

func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // ends with the client
		}()
	}
}

func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
	_, err := c.Write([]byte("ping"))
	must(t, err)
	var b [4]byte
	_, err = io.ReadFull(c, b[:])
	must(t, err)
}

// finish closes one side, and waits for the other.
func finish(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(3*time.Second)))
	must(t, c.(*net.TCPConn).CloseWrite())
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after closing: %v, want EOF", err)
	}
}
