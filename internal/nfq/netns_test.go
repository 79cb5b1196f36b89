package nfq

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// skip skips a test, which in CI is a failure.
func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("in CI nothing is skipped: ", why)
	}
	t.Skip(why)
}

// inNetns moves the rest of the test into a network namespace of its own, with
// loopback up. The test keeps its thread, which dies with it.
func inNetns(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "needs root for a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the runtime ends the thread, and the namespace goes
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		skip(t, "no network namespace: "+err.Error())
	}
	run(t, "ip link set lo up")
}

// run runs a command in the thread's namespace.
func run(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// udpPair is two sockets on loopback, the one to send to the other, made by
// the calling thread.
func udpPair(t testing.TB) (client *net.UDPConn, server *net.UDPConn) {
	t.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	_ = server.SetReadBuffer(8 << 20)
	client, err = net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, server
}
