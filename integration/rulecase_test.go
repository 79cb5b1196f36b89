package integration

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// A ruleCase is a test of what rules say: each of its rules stands before a port of
// its own of every server.
type ruleCase struct {
	name  string
	rules []string // what each says, besides what it is about and how it keeps state
	run   func(c *ruleTest)
}

// ruleTest is a case at one server.
type ruleTest struct {
	*testing.T
	on    []*guarded // the ports, one for each rule
	first int        // of ten sources that no other test has
}

// firstRulePort is the port of the first rule of a lab.
const firstRulePort = 80

// runRuleCases runs each case for each policy, place and family, in one lab for each
// policy. The server echoes, and closes when it is told to.
func runRuleCases(t *testing.T, cases []ruleCase) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			servers := guardAll(t, caseConfig(policy, cases), AcceptOptions{Echo: true})
			for _, g := range servers {
				g.srv.Close() // a case listens where it needs to
			}
			sources := 0
			for _, g := range servers {
				port := uint16(firstRulePort)
				for _, k := range cases {
					first, from := sources, port
					sources += 10
					port += uint16(len(k.rules))
					t.Run(fmt.Sprintf("%s/%v/%s", g.at.name, g.family, k.name), func(t *testing.T) {
						t.Parallel() // some wait
						k.run(&ruleTest{t, g.listeners(t, from, len(k.rules)), first})
					})
				}
			}
		})
	}
}

// caseConfig has a rule for each rule of the cases and each server.
func caseConfig(policy string, cases []ruleCase) string {
	var b strings.Builder
	cookies, state := underPolicy(policy)
	b.WriteString(cookies)
	for _, at := range places {
		for _, f := range Families {
			port := uint16(firstRulePort)
			for _, k := range cases {
				for _, keys := range k.rules {
					fmt.Fprintf(&b, "[[rule]]\nname = %q\non = [\"eth0\"]\nto = [\"%v\"]\nport = [%d]\n", caseRule(at, f, port), at.addr(f), port)
					if !strings.Contains(keys, "block") {
						fmt.Fprintf(&b, "state = %q\n", state)
					}
					b.WriteString(keys + "\n")
					port++
				}
			}
		}
	}
	return b.String()
}

// caseRule is the name of the rule before a port.
func caseRule(at place, f Family, port uint16) string {
	return fmt.Sprintf("%s-%v-%d", at.name, f, port)
}

// ruleName is that of the rule before the server.
func (g *guarded) ruleName() string { return caseRule(g.at, g.family, g.srv.Addr().Port()) }

// caseTime is how long a case may take: it does so only if it fails.
const caseTime = 10 * time.Second

// listeners are the same server on some ports in a row.
func (g *guarded) listeners(t *testing.T, first uint16, n int) (list []*guarded) {
	t.Helper()
	ctx, cancel := context.WithTimeout(g.ctx, caseTime)
	t.Cleanup(cancel)
	for i := range uint16(n) {
		on := *g
		on.t, on.ctx = t, ctx
		on.srv = must[*AcceptCounter](t, "listen")(on.server().CountAccepts(on.addr(first+i), AcceptOptions{Echo: true}))
		list = append(list, &on)
	}
	return list
}

// try attempts one connection, in which an octet comes back.
func (g *guarded) try(from int) Attempt {
	g.t.Helper()
	return g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(from), To: g.srv.Addr(), N: 1}).Attempts[0]
}

// gets opens connections of a source that are to be accepted.
func (g *guarded) gets(from, n int) (list []pair) {
	g.t.Helper()
	for range n {
		before := g.srv.Count()
		a := g.try(from)
		if a.Outcome != Held {
			g.t.Fatalf("%v on port %d: %v %v, want it held", g.source(from), g.srv.Addr().Port(), a.Outcome, a.Err)
		}
		client := a.Conn.LocalAddr().(*net.TCPAddr).AddrPort()
		list = append(list, pair{a.Conn, g.srv.acceptedFrom(client, before)}) // an octet has come back
	}
	return list
}

// atOnce is how soon a client that is refused with a reset hears it.
const atOnce = time.Second

// isRefused attempts a connection that is to be reset at once, and of which the server
// is to hear nothing.
func (g *guarded) isRefused(from int, why string) {
	g.t.Helper()
	before := g.accepted(from)
	a := g.try(from)
	if a.Outcome != Refused && a.Outcome != Reset || a.Elapsed > atOnce {
		g.t.Errorf("%s: %v after %v, want a reset at once", why, a.Outcome, a.Elapsed)
	}
	if n := g.accepted(from); n != before {
		g.t.Errorf("%s: the server accepted %d more", why, n-before)
	}
}

// accepted is how many connections of a source the server has accepted.
func (g *guarded) accepted(from int) (n int) {
	for _, c := range g.srv.Conns() {
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr() == g.source(from) {
			n++
		}
	}
	return n
}

// holds says how many connections of all sources the server is to hold on a port. It
// may not have heard of the end of one yet.
func (c *ruleTest) holds(g *guarded, want int) {
	c.Helper()
	var list Sockets
	err := Poll(g.ctx, func() bool {
		list = must[Sockets](c.T, "sockets")(g.server().Sockets(Established, CloseWait))
		list = list.keep(func(s Socket) bool { return s.Local == g.srv.Addr() })
		return len(list) == want
	})
	if err != nil {
		c.Errorf("port %d: the server holds %d, want %d", g.srv.Addr().Port(), len(list), want)
	}
}
