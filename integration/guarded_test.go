package integration

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfqfw/internal/control"
)

// guarded is a lab whose gateway runs the firewall before one server.
type guarded struct {
	t      *testing.T
	ctx    context.Context
	lab    *Lab
	fw     *Firewall
	at     place
	family Family
	srv    *AcceptCounter
}

// guard builds a lab with webRule before a server on port 80.
func guard(t *testing.T, policy string, at place, f Family, limit int, opts AcceptOptions) *guarded {
	t.Helper()
	return guardWith(t, fmt.Sprintf(webRule, policy, limit), at, f, opts)
}

// guardWith builds a lab with any configuration before a server on port 80.
func guardWith(t *testing.T, config string, at place, f Family, opts AcceptOptions) *guarded {
	t.Helper()
	g := &guarded{t: t, ctx: testContext(t), lab: newLab(t, Options{SecondClientNet: true}), at: at, family: f}
	g.fw = startFirewall(t, g.lab, config)
	g.srv = must[*AcceptCounter](t, "listen")(g.server().CountAccepts(g.addr(80), opts))
	return g
}

// guardAll builds one lab with a server on port 80 for each place and family, in
// the order of places and Families. It has a minute, as much happens in it.
func guardAll(t *testing.T, config string, opts AcceptOptions) []*guarded {
	t.Helper()
	l := newLab(t, Options{SecondClientNet: true})
	return besideAll(&guarded{t: t, lab: l, fw: startFirewall(t, l, config)}, opts)
}

// besideAll adds a server for each place and family to a lab with or without
// a firewall.
func besideAll(g *guarded, opts AcceptOptions) (all []*guarded) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	g.t.Cleanup(cancel)
	g.ctx = ctx
	for _, at := range places {
		for _, f := range Families {
			all = append(all, g.beside(at, f, opts))
		}
	}
	return all
}

// beside is another server in the same lab.
func (g *guarded) beside(at place, f Family, opts AcceptOptions) *guarded {
	g.t.Helper()
	next := *g
	next.at, next.family = at, f
	next.srv = must[*AcceptCounter](g.t, "listen")(next.server().CountAccepts(next.addr(80), opts))
	return &next
}

// server is the namespace the server runs in.
func (g *guarded) server() *Namespace { return g.at.ns(g.lab) }

// addr is a port at the server.
func (g *guarded) addr(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(g.at.addr(g.family), port)
}

// source is the i-th client address; in IPv6 each is a source of its own.
func (g *guarded) source(i int) netip.Addr { return CrowdAddr(g.family, i) }

// A pair is the two ends of a connection.
type pair struct{ client, server *net.TCPConn }

// open opens a connection and waits until the server has accepted it.
func (g *guarded) open(from netip.Addr) pair {
	g.t.Helper()
	return g.openFrom(netip.AddrPortFrom(from, 0))
}

// openFrom does so from one port of the client.
func (g *guarded) openFrom(from netip.AddrPort) pair {
	g.t.Helper()
	n := g.srv.Count()
	c := must[*net.TCPConn](g.t, "dial")(g.lab.Client.Dial(g.ctx, from, g.srv.Addr()))
	g.lab.onClose(func() error { _ = c.Close(); return nil }) // until then it is not collected
	return pair{c, must[*net.TCPConn](g.t, "accept")(g.srv.Conn(g.ctx, n))}
}

// abort ends a connection with a RST.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// info is what "nfqfw info" tells.
func (g *guarded) info() control.Info {
	g.t.Helper()
	return must[control.Info](g.t, "info")(g.fw.Info(g.ctx))
}

// statesOf lists the states of a source.
func (g *guarded) statesOf(from netip.Addr) []control.State {
	g.t.Helper()
	return of(from, must[[]control.State](g.t, "states")(g.fw.States(g.ctx)))
}

// of are those states that are of a source.
func of(from netip.Addr, list []control.State) []control.State {
	return slices.DeleteFunc(list, func(s control.State) bool { return s.Source.Address != from })
}

// summary counts states by their names: "10 ESTABLISHED:ESTABLISHED".
func summary(list []control.State) string {
	count := make(map[string]int)
	for _, s := range list {
		count[s.State]++
	}
	var words []string
	for state, n := range count {
		words = append(words, fmt.Sprintf("%d %s", n, state))
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// waitSummary waits until the states of a source are these, or one of several.
func (g *guarded) waitSummary(from netip.Addr, want ...string) {
	g.t.Helper()
	var got string
	err := Poll(g.ctx, func() bool {
		list, err := g.fw.States(g.ctx)
		if err == nil {
			got = summary(of(from, list))
		}
		return err == nil && slices.Contains(want, got)
	})
	if err != nil {
		g.t.Fatalf("states of %v: %s, want %s", from, got, strings.Join(want, " or "))
	}
}

// held lists the connections of a source that the server holds: it has not
// sent its FIN.
func (g *guarded) held(from netip.Addr) Sockets {
	g.t.Helper()
	list := must[Sockets](g.t, "sockets")(g.server().Sockets(Established, CloseWait))
	list = list.Local(g.srv.Addr().Port()).From(from)
	slices.SortFunc(list, func(a, b Socket) int { return cmp.Compare(a.Remote.Port(), b.Remote.Port()) })
	return list
}

// counted is how many states of a source count.
func (g *guarded) counted(from netip.Addr) int {
	g.t.Helper()
	n := 0
	for _, s := range g.statesOf(from) {
		if s.Counts {
			n++
		}
	}
	return n
}
