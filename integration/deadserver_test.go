package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// A garbage is what a server that is none answers to every SYN.
type garbage struct {
	name   string
	answer func(syn *segment) rawPacket // nil: nothing
	soon   bool                         // the client is to hear at once
	unseen bool                         // nobody can say what it was sent
}

const refuses = "refuses"

// garbages are one for each port from 8000 on. The server's number differs from
// answer to answer, as a server's would that has forgotten the last.
var garbages = []garbage{
	{name: refuses, soon: true}, // by its kernel, which is let do it
	{name: "is dead"},
	{name: "acknowledges less, without SYN", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq - 1000, flags: flagACK}
	}},
	{name: "acknowledges more, without SYN", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq + 1000, flags: flagACK}
	}},
	{name: "acknowledges rightly, without SYN", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq + 1, flags: flagACK, payload: []byte("hello")}
	}},
	{name: "closes what it has not opened", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq + 1, flags: flagFIN | flagACK}
	}},
	{name: "answers another SYN", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq + 1000, flags: flagSYN | flagACK}
	}},
	{name: "acknowledges the SYN's own number", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq, flags: flagSYN | flagACK}
	}},
	{name: "resets something else", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, ack: syn.Seq + 1000, flags: flagRST | flagACK}
	}},
	{name: "resets without an ACK", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, flags: flagRST}
	}},
	{name: "asks itself", answer: func(syn *segment) rawPacket {
		return rawPacket{seq: syn.Seq * 3, flags: flagSYN}
	}},
}

// A ruin is a client's attempt on a server that is none.
type ruin struct {
	*guarded
	garbage
	known  bool   // the firewall has learnt what the server could do when it was one
	silent bool   // the client waits for the server to speak
	port   uint16 // the server's
	from   uint16 // the client's

	outcome Outcome
	elapsed time.Duration
}

func (r *ruin) String() string {
	return fmt.Sprintf("%s/%v, known %v, client silent %v, a server that %s", r.at.name, r.family, r.known, r.silent, r.name)
}

// The server is asked at 0, 1, 3 and 7 s and given up at 15 s; of one that is new
// it is asked first, for a second and a half at most, what it can do.
const (
	givesUp = 15 * time.Second
	asks    = 1500 * time.Millisecond
	jitter  = 1500 * time.Millisecond
)

// maxAsked is how many packets a server may get for one client, whatever it
// answers: the four SYNs and the last RST, what is sent because of a useless
// answer, which is bounded as well, and a SYN and a RST before the client is
// answered.
const maxAsked = 20

// The client of a server that is down, refuses, or answers garbage hears a reset,
// the server is not asked for ever, and nothing is left of it.
//
// With keep the client asks the server itself; see TestClosedPort.
func TestDeadServer(t *testing.T) {
	t.Parallel()
	var sites []*site
	for _, policy := range []string{"synproxy", "cookies"} {
		sites = append(sites, newSite(t, policy))
	}
	var all errgroup.Group
	for _, s := range sites {
		for _, r := range s.ruins {
			all.Go(func() error { r.visit(); return nil })
		}
	}
	_ = all.Wait() // the outcomes are the ruins' own
	for _, s := range sites {
		s.expectResets()
		s.expectNothingLeft()
	}
}

// A site is many ruins in one lab.
type site struct {
	t      *testing.T
	policy string
	guards []*guarded // one for each place and family
	ruins  []*ruin
	talk   *talker
}

func newSite(t *testing.T, policy string) *site {
	t.Helper()
	s := &site{t: t, policy: policy, guards: guardAll(t, portsConfig(policy), AcceptOptions{})}
	for _, g := range s.guards {
		s.plan(g)
	}
	for _, f := range Families {
		s.planAbsent(f)
	}
	s.talk = startTalker(t, s.guards[0].lab)
	return s
}

// plan adds the ruins of a place. On the firewall itself there is a kernel, which
// answers no garbage.
func (s *site) plan(g *guarded) {
	for i, k := range garbages {
		if g.server() == g.lab.Gateway && k.name != refuses {
			continue
		}
		for j, known := range []bool{true, false} {
			port := uint16(8000 + 2*i + j)
			g.ruin(port, k, known)
			for _, silent := range []bool{true, false} {
				s.ruins = append(s.ruins, &ruin{guarded: g, garbage: k, known: known, silent: silent, port: port, from: uint16(20000 + len(s.ruins))})
			}
		}
	}
}

// planAbsent adds an attempt on an address of the server's network that nobody
// has.
func (s *site) planAbsent(f Family) {
	g := *s.guards[0]
	g.family = f
	g.at = place{"absent", g.at.ns, func(f Family) netip.Addr { return serverNet.host(f, serverHost+1) }}
	k := garbage{name: "is not there", unseen: true}
	s.ruins = append(s.ruins, &ruin{guarded: &g, garbage: k, port: 80, from: uint16(20000 + len(s.ruins))})
}

// ruin makes a garbage of the server on a port: its kernel hears nothing any more,
// but for one that is to refuse.
func (g *guarded) ruin(port uint16, k garbage, known bool) {
	g.t.Helper()
	if known {
		srv := must[*AcceptCounter](g.t, "listen")(g.server().CountAccepts(g.addr(port), AcceptOptions{Echo: true, CloseOnEOF: true}))
		g.teach(port)
		_ = srv.Close()
	}
	if k.name != refuses {
		g.server().lose(g.t, drop{g.family, "PREROUTING", fmt.Sprint("--dport ", port), true})
	}
}

// visit connects, and waits until the end.
func (r *ruin) visit() {
	start := time.Now()
	ctx, cancel := context.WithTimeout(r.ctx, givesUp+asks+jitter)
	defer cancel()
	c, err := r.lab.Client.Dial(ctx, netip.AddrPortFrom(r.source(0), r.from), r.addr(r.port))
	if err == nil {
		err = prove(ctx, c, HoldOptions{Banner: r.silent})
		_ = c.Close()
	}
	r.outcome, r.elapsed = outcomeOf(err), time.Since(start)
}

// expectResets looks when the clients have heard, and how often the servers were
// asked.
func (s *site) expectResets() {
	for _, r := range s.ruins {
		from := netip.AddrPortFrom(r.source(0), r.from)
		asked := s.talk.count(from)
		s.t.Logf("%s/%v: %v after %v, asked with %d packets", s.policy, r, r.outcome, r.elapsed.Round(time.Millisecond), asked)
		if r.outcome != Refused && r.outcome != Reset {
			s.t.Errorf("%s/%v: the client's is %v, want a reset", s.policy, r, r.outcome)
		}
		latest, earliest := 500*time.Millisecond, time.Duration(0)
		if !r.soon {
			latest, earliest = givesUp+jitter, givesUp
		}
		if !r.known && !r.soon {
			latest += asks
		}
		if r.elapsed > latest || r.elapsed < earliest {
			s.t.Errorf("%s/%v: the client hears after %v, want %v to %v", s.policy, r, r.elapsed, earliest, latest)
		}
		if !r.soon && !r.unseen && asked < 4 || asked > maxAsked {
			s.t.Errorf("%s/%v: was asked with %d packets, want 4 to %d", s.policy, r, asked, maxAsked)
		}
	}
}

// expectNothingLeft looks in the table, in the kernel and on the wire.
func (s *site) expectNothingLeft() {
	time.Sleep(pause)
	heard := s.talk.total()
	for _, g := range s.guards {
		var ports []uint16
		for _, r := range s.ruins {
			ports = append(ports, r.from)
		}
		if list := g.statesOf(g.source(0)); len(list) != 0 {
			s.t.Errorf("%v: states are left: %s", g.family, summary(list))
		}
		if list := g.entries(ports...); len(list) != 0 {
			s.t.Errorf("%v: entries are left in conntrack: %v", g.family, list)
		}
		for _, n := range g.lab.namespaces() {
			left := must[Sockets](s.t, "sockets")(n.Sockets()).keep(func(k Socket) bool {
				return slices.Contains(ports, k.Local.Port()) || slices.Contains(ports, k.Remote.Port())
			})
			if len(left) != 0 {
				s.t.Errorf("%s: sockets are left: %v", n.Name, left)
			}
		}
	}
	time.Sleep(pause)
	if more := s.talk.total() - heard; more != 0 {
		s.t.Errorf("the servers still hear of it: %d packets", more)
	}
	s.guards[0].expectNoLosses()
}

// A talker answers garbage in the server's name, and counts what it is sent.
type talker struct {
	t     *testing.T
	wires map[Family]*rawWire
	ears  *capture

	mu    sync.Mutex
	heard map[netip.AddrPort]int // from a client
}

// maxAnswers bounds what a talker says to one client, should the firewall not.
const maxAnswers = 500

func startTalker(t *testing.T, l *Lab) *talker {
	t.Helper()
	k := &talker{t: t, wires: make(map[Family]*rawWire), ears: captureIn(t, l.Server), heard: make(map[netip.AddrPort]int)}
	for _, f := range Families {
		k.wires[f] = openLink(t, linkEnd{l.Server, "eth0"}, linkEnd{l.Gateway, "eth1"}, f)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	t.Cleanup(func() { close(done); wg.Wait() }) // before the sockets are closed
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				k.listen()
			}
		}
	})
	return k
}

// listen takes the next packet that a client is said to have sent.
func (k *talker) listen() {
	s := k.ears.hear()
	if s == nil || s.dst.Addr() != ServerAddr(familyOf(s.dst.Addr())) {
		return
	}
	k.mu.Lock()
	k.heard[s.src]++
	n := k.heard[s.src]
	k.mu.Unlock()
	kind := int(s.dst.Port()-8000) / 2
	if s.dst.Port() < 8000 || kind >= len(garbages) || garbages[kind].answer == nil || !s.SYN || n > maxAnswers {
		return
	}
	answer := garbages[kind].answer(s)
	answer.src, answer.dst = s.dst, s.src
	if err := k.wires[familyOf(s.dst.Addr())].send(answer.octets()); err != nil {
		k.t.Error(err)
	}
}

func (k *talker) count(client netip.AddrPort) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.heard[client]
}

func (k *talker) total() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, heard := range k.heard {
		n += heard
	}
	return n
}
