package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/synproxy/cookie"
)

// firstPort is the first of the ports that clients use.
const firstPort = 40000

// world is one run.
type world struct {
	seed       uint64
	story      story
	clock      clock
	rand       *rand.Rand
	trace      func(string)
	gateway    gateway
	server     *host
	clients    *host
	habits     [8]packet.Options // what each client's SYN offers
	tricks     map[name]*trickery
	slab       slab
	services   []service
	said       map[string]said // by each rule
	abusers    abusers
	admissions []*admission
	untold     []*admission  // those in the kernel that the engine has not taken note of
	reloaded   time.Duration // when the last reload was
	unruled    bool          // a port had no rule for a while
	honest     []*socket
	served     []*socket // the server's sockets, in the order of their SYNs

	connections int  // that may still be begun
	unlucky     name // the connection that loses a packet
	// spoofed are connections in which an attacker who knows them has sent a SYN, or
	// a RST inside the window: that may end a handshake, or a connection.
	spoofed  map[name]bool
	failures []string
}

// worlds that are over, for their memory.
var worlds = sync.Pool{New: func() any {
	w := &world{
		tricks: make(map[name]*trickery), spoofed: make(map[name]bool), said: make(map[string]said),
		server: &host{sockets: make(map[name]*socket)}, clients: &host{sockets: make(map[name]*socket)},
	}
	w.gateway.entries, w.gateway.closing = make(map[name]*entry), make(map[name]time.Duration)
	w.gateway.ticked = w.gateway.decided
	return w
}}

// newWorld makes the world of a seed. Nothing in it depends on what the memory was
// used for before.
func newWorld(o Options) *world {
	w := worlds.Get().(*world)
	w.clear()
	w.seed, w.trace = o.Seed, o.Trace
	w.rand = rand.New(rand.NewPCG(o.Seed, 0))
	w.story = newStory(w.rand)
	w.connections = w.story.connections
	w.unlucky = nameOf(clientTuple(1, firstPort, serverPort))
	w.serve()
	for i := range w.habits {
		w.habits[i] = someOptions(w.rand)
	}
	w.server.listens, w.server.silent = true, w.story.server.silent
	for _, h := range []*host{w.server, w.clients} {
		h.world, h.stamp = w, w.rand.Uint32()
	}
	g := &w.gateway
	g.world, g.engine, g.tickAt = w, w.newEngine(), never
	if w.story.gateway.grants {
		g.engine.SetGrants(g.clearGrants(w.rand.Uint64()))
	}
	if w.story.gateway.answers {
		g.engine.SetAnswers(g.clearAnswers(w.rand.Uint64()), 0)
	}
	g.engine.SetTimestamps(w.story.gateway.stamps)
	w.wire()
	return w
}

func (w *world) clear() {
	w.clock.reset()
	clear(w.tricks)
	clear(w.spoofed)
	clear(w.said)
	clear(w.server.sockets)
	clear(w.clients.sockets)
	clear(w.gateway.entries)
	clear(w.gateway.closing)
	w.gateway.grants, w.gateway.answers, w.untold = nil, nil, nil
	w.gateway.copies, w.gateway.waiting, w.gateway.noted = w.gateway.copies[:0], nil, 0
	w.slab.used, w.admissions, w.abusers = 0, w.admissions[:0], abusers{}
	w.reloaded, w.unruled, w.gateway.telling = 0, false, 0
	w.honest, w.served, w.failures = w.honest[:0], w.served[:0], nil
}

func (w *world) newEngine() *engine.Engine {
	return engine.New(w.config(), engine.Seeds{
		NewerKey: cookie.Key{w.rand.Uint64(), 1}, OlderKey: cookie.Key{w.rand.Uint64(), 2}, Hash: w.rand.Uint64(),
	})
}

// wire joins clients, gateway and server.
func (w *world) wire() {
	g := &w.gateway
	join := func(to receiver, name string, dev uint32) *link {
		return &link{world: w, to: to, inName: name, inDev: dev, delay: time.Duration(1+w.rand.IntN(30)) * time.Millisecond}
	}
	g.toClient, g.toServer = join(w.clients, "eth0", 1), join(w.server, "eth0", 1)
	w.clients.out, w.server.out = join(g, "eth0", 1), join(g, "eth1", 2)
}

func (w *world) tracef(format string, args ...any) {
	w.trace(fmt.Sprintf("%v ", w.clock.now) + fmt.Sprintf(format, args...))
}

func (w *world) failf(format string, args ...any) {
	w.failures = append(w.failures, fmt.Sprintf("at %v: ", w.clock.now)+fmt.Sprintf(format, args...))
}

// show is a packet as a trace has it.
func show(p *packet.Packet) string {
	b := fmt.Sprintf("%v %v seq %d ack %d win %d", p.Tuple, p.Flags, p.Seq, p.Ack, p.Window)
	if p.PayloadLen > 0 {
		b += fmt.Sprintf(" len %d", p.PayloadLen)
	}
	if o := &p.Options; o.HasWScale {
		b += fmt.Sprintf(" ws %d", o.WScale)
	}
	if o := &p.Options; o.HasTimestamp {
		b += fmt.Sprintf(" ts %d,%d", o.TSVal, o.TSEcr)
	}
	return b
}
