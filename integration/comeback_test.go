package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A comeback is a client that begins a connection with the four numbers of one
// that is not over, or only just: its port is free again, or its machine has lost
// the old one.
type comeback struct {
	name  string
	state string    // of the old connection, "server:client"
	deaf  []deafEnd // who hears nothing while the old connection ends
	end   func(pair)
	// opening: the old connection is only begun, while they are deaf. Then the SYN
	// proxy's state is another.
	opening bool
	proxied string
	// forgotten: the client's kernel loses the old socket without a word.
	forgotten bool
	wait      time.Duration // until the client's kernel lets the port be used again
}

// deafEnd is a namespace, and the chain in which all of a connection's packets
// are lost, but for a SYN.
type deafEnd struct {
	where func(*guarded) *Namespace
	chain string
	port  string // which is the client's
}

var (
	nothingFromClient = deafEnd{atClient, "OUTPUT", "--sport"}
	nothingToClient   = deafEnd{atClient, "PREROUTING", "--dport"}
	nothingToServer   = deafEnd{atServer, "PREROUTING", "--sport"}
	nothingFromServer = deafEnd{atServer, "OUTPUT", "--dport"}
)

func nobody(pair)         {}
func clientCloses(p pair) { _ = p.client.CloseWrite() }
func serverCloses(p pair) { _ = p.server.Close() }
func bothClose(p pair)    { clientCloses(p); serverCloses(p) }

// Both close, the one when it has heard the other's FIN.
func clientThenServer(p pair) { clientCloses(p); hearFIN(p.server); serverCloses(p) }
func serverThenClient(p pair) { serverCloses(p); hearFIN(p.client); clientCloses(p) }

func hearFIN(c *net.TCPConn) {
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = c.Read(make([]byte, 1)) // if there is none the state will tell
}

// reuseDelay is how long a port in TIME-WAIT may not be used again with
// tcp_tw_reuse: a second (net/ipv4/tcp_ipv4.c: tcp_twsk_unique).
const reuseDelay = 1100 * time.Millisecond

var comebacks = []comeback{
	{name: "the client has forgotten it", state: "ESTABLISHED:ESTABLISHED", end: nobody, forgotten: true},
	{name: "its RST is lost", state: "ESTABLISHED:ESTABLISHED", deaf: []deafEnd{nothingFromClient},
		end: func(p pair) { abort(p.client) }},
	{name: "its RST is lost behind the firewall", state: "ESTABLISHED:ESTABLISHED", deaf: []deafEnd{nothingToServer},
		end: func(p pair) { abort(p.client) }},
	{name: "the client's FIN is not acknowledged", state: "ESTABLISHED:CLOSING", deaf: []deafEnd{nothingFromServer},
		end: clientCloses, forgotten: true},
	{name: "the client has closed", state: "ESTABLISHED:FIN_WAIT_2", end: clientCloses, forgotten: true},
	{name: "the server's FIN is not acknowledged", state: "CLOSING:ESTABLISHED", deaf: []deafEnd{nothingFromClient},
		end: serverCloses, forgotten: true},
	{name: "neither FIN is acknowledged", state: "CLOSING:CLOSING", deaf: []deafEnd{nothingToClient, nothingToServer},
		end: bothClose, forgotten: true},
	{name: "the client has closed, and the server's FIN is not acknowledged", state: "CLOSING:FIN_WAIT_2",
		deaf: []deafEnd{nothingToClient}, end: clientThenServer, forgotten: true},
	{name: "the server has closed", state: "FIN_WAIT_2:ESTABLISHED", end: serverCloses, forgotten: true},
	{name: "the server has closed, and the client's FIN is not acknowledged", state: "FIN_WAIT_2:CLOSING",
		deaf: []deafEnd{nothingToServer}, end: serverThenClient, forgotten: true},
	{name: "the server has closed first", state: "FIN_WAIT_2:FIN_WAIT_2", end: serverThenClient},
	{name: "the client has closed first", state: "FIN_WAIT_2:FIN_WAIT_2", end: clientThenServer,
		wait: reuseDelay},
	{name: "the client has reset it", state: "TIME_WAIT:TIME_WAIT", end: func(p pair) { abort(p.client) }},
	{name: "the server has reset it", state: "TIME_WAIT:TIME_WAIT", end: func(p pair) { abort(p.server) }},
	{name: "the client's last ACK is lost", state: "SYN_SENT:ESTABLISHED", proxied: "PROXY:SRC", opening: true,
		deaf: []deafEnd{nothingFromClient}, forgotten: true},
	{name: "the server's answer is lost", state: "CLOSED:SYN_SENT", proxied: "PROXY:DST", opening: true,
		deaf: []deafEnd{nothingFromServer}, forgotten: true},
}

// lag is how much longer a comeback may take than without a firewall. For the detector
// of races, which makes the daemon slower than the 8 ms after which Linux sends the SYN of
// a client again whose old connection it has just reset, it is one SYN more.
func lag() time.Duration {
	if raceEnabled {
		return 1200 * time.Millisecond
	}
	return 200 * time.Millisecond
}

// A client that comes back is served as soon as it would be without a firewall,
// and the old connection is nobody's any more. What counts is milliseconds: it has the
// machine for itself.
func TestComebacks(t *testing.T) {
	reference := newReturns(t, "")
	all := []*returns{reference}
	for _, policy := range policies {
		all = append(all, newReturns(t, policy))
	}
	var g errgroup.Group
	for _, r := range all {
		r.part()
		for _, c := range r.list {
			g.Go(func() error { c.again(); return nil })
		}
	}
	_ = g.Wait() // errors are the clients' own
	for _, r := range all {
		r.expectServed(reference)
	}
}

// returns are all comebacks in one lab.
type returns struct {
	t      *testing.T
	policy string // "": no firewall
	guards []*guarded
	list   []*returner
}

// returner is one client of them.
type returner struct {
	*guarded
	comeback
	port uint16 // the client's: no other has it
	old  pair
	half *os.File // the client's end of one that is only begun

	elapsed time.Duration
	conn    *net.TCPConn
	err     error
}

func (c *returner) String() string { return fmt.Sprintf("%s/%v, %s", c.at.name, c.family, c.name) }

func newReturns(t *testing.T, policy string) *returns {
	t.Helper()
	r := &returns{t: t, policy: policy}
	opts := AcceptOptions{Echo: true}
	if policy == "" {
		r.guards = besideAll(&guarded{t: t, lab: newLab(t, Options{SecondClientNet: true})}, opts)
	} else {
		r.guards = guardAll(t, webConfig(policy, 1000), opts)
	}
	if err := r.guards[0].lab.Client.Sysctl("net.ipv4.tcp_tw_reuse", "1"); err != nil {
		t.Fatal(err)
	}
	for _, g := range r.guards {
		g.teach(80)
		r.plan(g)
	}
	return r
}

// plan opens the old connections to one server.
func (r *returns) plan(g *guarded) {
	r.t.Helper()
	for _, c := range comebacks {
		if c.behind(g) && g.server() != g.lab.Server {
			continue // there is no wire
		}
		k := &returner{guarded: g, comeback: c, port: uint16(20000 + len(r.list))}
		r.list = append(r.list, k)
		if !c.opening {
			k.old = k.openFrom(k.local())
			echo(r.t, k.old.client)
		}
	}
}

// behind says whether something is lost between the firewall and the server.
func (c *comeback) behind(g *guarded) bool {
	for _, d := range c.deaf {
		if d.where(g) == g.lab.Server {
			return true
		}
	}
	return false
}

func (c *returner) local() netip.AddrPort { return netip.AddrPortFrom(ClientAddr(c.family, 0), c.port) }

// part brings all old connections to where they are to be, and has the clients
// forget them.
func (r *returns) part() {
	r.t.Helper()
	r.deafen()
	for _, c := range r.list {
		if c.opening {
			half, _, err := c.lab.Client.begin(c.ctx, c.local(), c.addr(80))
			c.half = must[*os.File](r.t, "begin")(half, err)
		} else {
			c.end(c.old)
		}
	}
	r.expectStates()
	time.Sleep(pause) // as long as a machine takes at least to come back
	for _, c := range r.list {
		if err := c.forget(); err != nil {
			r.t.Fatalf("%v: forget: %v", c, err)
		}
	}
	for _, n := range []*Namespace{r.guards[0].lab.Client, r.guards[0].lab.Server} {
		for _, f := range Families {
			n.lossless(r.t, f)
		}
	}
}

// deafen has packets be lost.
func (r *returns) deafen() {
	r.t.Helper()
	drops := make(map[*Namespace][]drop)
	for _, c := range r.list {
		for _, d := range c.deaf {
			n := d.where(c.guarded)
			match := fmt.Sprintf("%s %d ! --tcp-flags SYN,ACK SYN", d.port, c.port)
			drops[n] = append(drops[n], drop{c.family, d.chain, match, true})
		}
	}
	for n, list := range drops {
		n.lose(r.t, list...)
	}
}

// expectStates waits until the firewall shows all old connections as they are
// meant to be.
func (r *returns) expectStates() {
	r.t.Helper()
	if r.policy == "" {
		time.Sleep(pause)
		return
	}
	var got map[uint16]string
	var wrong *returner
	if Poll(r.guards[0].ctx, func() bool {
		got, wrong = r.guards[0].statesByPort(), nil
		for _, c := range r.list {
			if got[c.port] != c.expectedState(r.policy) {
				wrong = c
			}
		}
		return wrong == nil
	}) != nil {
		r.t.Fatalf("%s/%v: the old connection is %q, want %q", r.policy, wrong, got[wrong.port], wrong.expectedState(r.policy))
	}
}

func (c *returner) expectedState(policy string) string {
	switch {
	case c.proxied == "" || policy == "keep":
		return "1 " + c.state
	case c.proxied == "PROXY:SRC" && policy == "cookies":
		return "" // nothing is remembered
	}
	return "1 " + c.proxied
}

// forget takes the client's socket away: from under repair it goes without a word
// (tcp_disconnect).
func (c *returner) forget() error {
	var socket interface {
		syscall.Conn
		Close() error
	} = c.half
	if !c.opening {
		socket = c.old.client
	}
	if !c.forgotten {
		_ = socket.Close() // an aborted one is closed
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	})
	return errors.Join(ctl, err, socket.Close())
}

// again is the client that comes back: it connects, and an octet goes there and
// back.
func (c *returner) again() {
	time.Sleep(c.wait)
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	start := time.Now()
	c.conn, c.err = c.lab.Client.Dial(ctx, c.local(), c.addr(80))
	if c.err == nil {
		c.err = prove(ctx, c.conn, HoldOptions{})
	}
	c.elapsed = time.Since(start)
}

// expectServed compares each client with what became of it without a firewall.
func (r *returns) expectServed(reference *returns) {
	r.t.Helper()
	for i, c := range r.list {
		free := reference.list[i]
		r.t.Logf("%s/%v: %v, %v without", r.policy, c, c.elapsed.Round(time.Millisecond), free.elapsed.Round(time.Millisecond))
		switch {
		case c.err != nil:
			r.t.Errorf("%s/%v: %v", r.policy, c, c.err)
		case c.elapsed > free.elapsed+lag():
			r.t.Errorf("%s/%v: %v, and %v without a firewall", r.policy, c, c.elapsed, free.elapsed)
		}
		if c.conn != nil {
			r.t.Cleanup(func() { abort(c.conn) })
		}
	}
	r.expectOne()
}

// expectOne looks that of each pair of connections only the new one is there.
func (r *returns) expectOne() {
	r.t.Helper()
	if r.policy == "" {
		return
	}
	states := r.guards[0].statesByPort()
	for _, c := range r.list {
		if want := "1 ESTABLISHED:ESTABLISHED"; c.err == nil && states[c.port] != want {
			r.t.Errorf("%s/%v: then its states are %q, want %q", r.policy, c, states[c.port], want)
		}
	}
	r.guards[0].expectNoLosses()
}
