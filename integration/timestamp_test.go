package integration

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Both ends of a proxied connection agree on timestamps, SACK and window scaling,
// from the first connection on, and neither finds fault with the other's: a server
// rejects a handshake's last ACK that echoes what it never sent (since Linux 6.18),
// and both drop segments whose timestamps go back.
func TestTimestampsEndToEnd(t *testing.T) {
	for _, policy := range []string{"synproxy", "cookies", "keep"} {
		for _, at := range places {
			for _, f := range Families {
				t.Run(fmt.Sprintf("%s/%s/%v", policy, at.name, f), func(t *testing.T) {
					g := guardWith(t, policyConfig(policy, webRule, 100), at, f, AcceptOptions{Echo: true})
					var conns []*net.TCPConn
					for range 20 {
						conns = append(conns, g.open(ClientAddr(f, 0)).client)
					}
					for _, c := range conns {
						exchange(t, c, 1<<18)
					}
					for _, n := range []*Namespace{g.lab.Client, g.server()} {
						g.expectOptions(n, len(conns), "ts sack", "wscale:")
						n.expectNoFault(t)
					}
					g.expectNoLosses()
					runtime.KeepAlive(conns) // not closed before they were looked at
				})
			}
		}
	}
}

// exchange sends octets to a server that echoes, and checks what comes back.
func exchange(t *testing.T, c *net.TCPConn, n int64) {
	t.Helper()
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data) // never fails
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- err
	}()
	sum := sha256.New()
	if _, err := io.CopyN(sum, c, n); err != nil {
		t.Fatalf("receive: %v", err)
	}
	if err := <-sent; err != nil {
		t.Fatalf("send: %v", err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("other octets come back than were sent")
	}
}

// expectOptions looks that ss shows words for each connection to the server's port.
func (g *guarded) expectOptions(n *Namespace, connections int, words ...string) {
	g.t.Helper()
	var lines []string
	err := Poll(g.ctx, func() bool {
		lines = g.ss(n)
		return len(lines) == connections
	})
	if err != nil {
		g.t.Errorf("%s: ss shows %d connections, want %d", n.Name, len(lines), connections)
	}
	for _, line := range lines {
		for _, w := range words {
			if !strings.Contains(line, w) {
				g.t.Errorf("%s: ss does not show %q: %.200s", n.Name, w, line)
				return
			}
		}
	}
}

// ss is what ss(8) shows of the connections to the server's port, each in a line.
func (g *guarded) ss(n *Namespace) []string {
	g.t.Helper()
	ports := fmt.Sprintf("( sport = :%d or dport = :%[1]d )", g.srv.Addr().Port())
	out, err := n.Command(g.ctx, "ss", "-tinoOH", "state", "established", ports).Output()
	if err != nil {
		g.t.Fatalf("ss: %v", err)
	}
	return slices.Collect(strings.Lines(string(out)))
}

// overtaken is how many segments of a load may come behind younger ones: two CPUs that
// hand over what came by a veth pair keep no order. A timestamp that is translated wrong
// shows once for each connection at least.
const overtaken = 3

// expectNoFault looks that TCP of a namespace has found no timestamp wrong.
func (n *Namespace) expectNoFault(t *testing.T) {
	t.Helper()
	counters := must[map[string]int](t, "netstat")(n.netstat())
	for _, name := range []string{"TSEcrRejected", "PAWSActive", "PAWSEstab", "PAWSOldAck", "PAWSTimewait"} {
		got, known := counters[name]
		allowed := map[string]int{"PAWSEstab": overtaken}[name]
		if got > allowed || !known && name != "TSEcrRejected" {
			t.Errorf("%s: %s %d", n.Name, name, got)
		}
	}
}

// netstat are the counters of TcpExt (proc_pid_net(5)).
func (n *Namespace) netstat() (counters map[string]int, err error) {
	err = n.Do(func() error {
		// The calling thread's, not the process's.
		b, err := os.ReadFile("/proc/thread-self/net/netstat")
		counters = parseNetstat(b)
		return err
	})
	return counters, err
}

// parseNetstat reads pairs of lines of names and of values.
func parseNetstat(b []byte) map[string]int {
	counters := make(map[string]int)
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		names := strings.Fields(lines.Text())
		if !lines.Scan() {
			break
		}
		for i, value := range strings.Fields(lines.Text()) {
			if n, err := strconv.Atoi(value); err == nil && i < len(names) {
				counters[names[i]] = n
			}
		}
	}
	return counters
}
