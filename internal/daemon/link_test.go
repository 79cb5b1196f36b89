package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/netnstest"
)

// A link that is made anew takes the states of the one that had its name; one that is
// only renamed, or is there beside the other, does not.
func TestMovedInterfaces(t *testing.T) {
	n := &interfaces{last: make(map[string]uint32), moved: make(map[uint32]uint32)}
	expect := func(what string, links map[uint32]link, want string) {
		t.Helper()
		n.become(links)
		if got := fmt.Sprint(n.takeMoved()); got != want {
			t.Errorf("%s: moved %s, want %s", what, got, want)
		}
	}
	expect("at first", map[uint32]link{1: {name: "lo"}, 2: {name: "eth0"}}, "map[]")
	expect("gone", map[uint32]link{1: {name: "lo"}}, "map[]")
	expect("made anew", map[uint32]link{1: {name: "lo"}, 7: {name: "eth0"}}, "map[2:7]")
	expect("renamed", map[uint32]link{1: {name: "lo"}, 7: {name: "wan"}}, "map[]")
	expect("another of the old name", map[uint32]link{1: {name: "lo"}, 7: {name: "wan"}, 8: {name: "eth0"}}, "map[]")
	expect("both made anew at once", map[uint32]link{1: {name: "lo"}, 9: {name: "wan"}, 10: {name: "eth0"}}, "map[7:9 8:10]")
	many := map[uint32]link{1: {name: "lo"}}
	for i := range uint32(3 * maxNames) {
		many[20+i] = link{name: fmt.Sprint("veth", i)}
	}
	for range 3 {
		n.become(many)
	}
	n.become(map[uint32]link{1: {name: "lo"}})
	if len(n.last) > 1 {
		t.Errorf("%d names are remembered", len(n.last))
	}
}

// Changes are heard of, and also when there were too many for the socket.
func TestLinkWatch(t *testing.T) {
	for _, overrun := range []bool{false, true} {
		netnstest.New(t)
		var log strings.Builder
		w, err := openLinkWatch(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err != nil {
			t.Fatal(err)
		}
		if overrun {
			if err := w.con.SetReadBuffer(1); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				netnstest.Run(t, "ip link set lo down", "ip link set lo up")
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.run(ctx) }()
		for i := range 5 {
			netnstest.Run(t, fmt.Sprintf("ip link add link%d type veth peer name peer%d", i, i))
			select {
			case <-w.changed:
			case <-time.After(2 * time.Second):
				t.Fatalf("overrun %v: nothing is heard of link %d", overrun, i)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = w.con.Close()
		if heard := strings.Contains(log.String(), "faster than can be heard"); heard != overrun {
			t.Errorf("overrun %v, and the log says\n%s", overrun, log.String())
		}
	}
}

// What has changed is known at once when it is asked for, and asked for once; also when
// there was too much for the socket.
func TestLinkNews(t *testing.T) {
	netnstest.New(t)
	w, err := openLinkWatch(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.con.Close()
	expect := func(what string, want bool) {
		t.Helper()
		if got := w.news(); got != want {
			t.Errorf("%s: news %v, want %v", what, got, want)
		}
	}
	expect("at first", true)
	expect("nothing happened", false)
	n := newInterfaces()
	netnstest.Run(t, "ip link add link0 type veth peer name peer0")
	expect("new", true)
	n.refresh()
	for range 20 {
		for _, name := range []string{"link1", "link0"} {
			netnstest.Run(t, fmt.Sprintf("ip link set dev %s name %s", n.name(index(t, n, "link")), name))
			expect("renamed", true)
			n.refresh()
			if got := n.name(index(t, n, "link")); got != name {
				t.Errorf("%s is called %s", name, got)
			}
			expect("nothing more", false)
		}
	}
	if err := w.con.SetReadBuffer(1); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		netnstest.Run(t, "ip link set lo down", "ip link set lo up")
	}
	expect("overrun", true)
	expect("all told", false)
	if got := testing.AllocsPerRun(100, func() { w.news() }); got != 0 {
		t.Errorf("%v allocations to ask", got)
	}
}

// index is that of the interface whose name begins so.
func index(t *testing.T, n *interfaces, begin string) uint32 {
	t.Helper()
	for i, l := range n.links {
		if strings.HasPrefix(l.name, begin) {
			return i
		}
	}
	t.Fatalf("no interface %s", begin)
	return 0
}
