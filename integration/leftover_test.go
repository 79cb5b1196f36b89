package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// childEnv makes the test binary run one of the helper tests below.
const childEnv = "NFQFW_LAB_CHILD"

func TestCloseRemovesEverything(t *testing.T) {
	Require(t, Root, Namespaces)
	ctx := testContext(t)
	l := must[*Lab](t, "open")(Open(Options{}))
	dir := must[string](t, "directory")(l.TempDir())
	// A process that leaves its group and ignores the polite signal.
	c := l.Server.Command(ctx, "setsid", "sh", "-c", "trap '' TERM; echo $$; while :; do sleep 1; done")
	out := must[io.ReadCloser](t, "pipe")(c.StdoutPipe())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || !alive(pid) {
		t.Fatalf("pid %d: %v", pid, err)
	}
	forgotten := must[*net.TCPListener](t, "listen")(l.Server.Listen(netip.MustParseAddrPort("[::]:80")))
	defer forgotten.Close()
	handle := must[netns.NsHandle](t, "handle")(netns.GetFromName(l.Server.Name))
	defer handle.Close()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if alive(pid) {
		t.Errorf("process %d lives", pid)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory: %v", err)
	}
	if _, err := os.Stat(netnsDir + "/" + l.Server.Name); !os.IsNotExist(err) {
		t.Errorf("namespace: %v", err)
	}
	err := runIn(handle, func() error { _, err := net.InterfaceByName("eth0"); return err })
	if err == nil {
		t.Error("a forgotten socket keeps the link")
	}
	if err := l.Server.Sysctl("net.ipv4.ip_forward", "1"); err == nil {
		t.Error("a closed lab can be used")
	}
	if err := l.Server.Do(func() error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do in a closed lab: %v", err)
	}
}

// TestChild is run by the tests below, in a process that ends badly.
func TestChild(t *testing.T) {
	how := os.Getenv(childEnv)
	if how == "" {
		return
	}
	l := New(t, Options{})
	if err := l.Server.Command(t.Context(), "sleep", "60").Start(); err != nil {
		t.Fatal(err)
	}
	switch how {
	case "fail":
		t.Fatal("as asked")
	case "panic":
		panic("as asked")
	case "panic inside":
		_ = l.Client.Do(func() error { panic("as asked") })
	case "kill":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}

// badEnd runs TestChild and returns its process id.
func badEnd(t *testing.T, how string) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+how)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("%s: ended well: %s", how, out)
	}
	return cmd.Process.Pid
}

func TestCleanupAfterBadEnd(t *testing.T) {
	Require(t, Root, Namespaces)
	for _, how := range []string{"fail", "panic", "panic inside"} {
		pid := badEnd(t, how)
		left := must[[]string](t, "list")(named(func(p int) bool { return p == pid }))
		if len(left) > 0 {
			t.Errorf("%s: left behind: %v", how, left)
		}
	}
}

func TestSweepAfterKill(t *testing.T) {
	Require(t, Root, Namespaces)
	pid := badEnd(t, "kill")
	mine := func(p int) bool { return p == pid }
	left := must[[]string](t, "list")(named(mine))
	if len(left) != 3 {
		// Another test process may have swept already.
		t.Logf("left behind: %v, want three", left)
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	if left := must[[]string](t, "list")(named(mine)); len(left) > 0 {
		t.Errorf("not swept: %v", left)
	}
}

func TestOwnerOf(t *testing.T) {
	for name, want := range map[string]int{
		"nfqfw-12-1-client": 12, "nfqfw-12": 0, "nfqfw-x-1-client": 0, "other-12-1-client": 0, "nfqfw--1-client": 0,
	} {
		if pid, _ := ownerOf(name); pid != want {
			t.Errorf("%s: %s, want %d", name, strconv.Itoa(pid), want)
		}
	}
}
