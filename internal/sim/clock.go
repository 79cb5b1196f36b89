package sim

import (
	"math"
	"time"

	"nfqfw/internal/packet"
)

// never is later than anything that is planned.
const never = time.Duration(math.MaxInt64)

// clock is virtual time: it jumps from one event to the next. Most events are
// packets that arrive and timers of sockets; they are kept by value, so that a run
// makes no garbage.
type clock struct {
	now    time.Duration
	heap   []planned // the earliest first, in the order of a binary heap
	events []event
	free   []uint32 // of events
	serial uint32   // events of one time happen in the order they were planned
	packet packet.Packet
}

// planned is when one of the events happens.
type planned struct {
	at     time.Duration
	serial uint32
	event  uint32
}

func (p planned) before(q planned) bool {
	return p.at < q.at || p.at == q.at && p.serial < q.serial
}

// event is one of three: a packet arrives, a timer runs out, or something else.
type event struct {
	link   *link
	packet packet.Packet
	socket *socket
	do     func()
}

// reset makes the clock as new, but for the memory it has.
func (c *clock) reset() {
	clear(c.events)
	*c = clock{heap: c.heap[:0], events: c.events[:0], free: c.free[:0]}
}

// plan gives an event that happens after d, to be filled in at once.
func (c *clock) plan(d time.Duration) *event {
	var i uint32
	if n := len(c.free); n > 0 {
		i, c.free = c.free[n-1], c.free[:n-1]
	} else {
		i = uint32(len(c.events))
		c.events = append(c.events, event{})
	}
	c.serial++
	c.push(planned{c.now + d, c.serial, i})
	return &c.events[i]
}

// after plans do.
func (c *clock) after(d time.Duration, do func()) { c.plan(d).do = do }

// next is when the next event is.
func (c *clock) next() time.Duration {
	if len(c.heap) == 0 {
		return never
	}
	return c.heap[0].at
}

// step lets the next event happen.
func (c *clock) step() {
	p := c.pop()
	e := &c.events[p.event]
	link, socket, do := e.link, e.socket, e.do
	if link != nil {
		c.packet = e.packet
	}
	e.link, e.socket, e.do = nil, nil, nil
	c.free = append(c.free, p.event)
	c.now = p.at
	switch {
	case link != nil:
		link.to.receive(&c.packet)
	case socket != nil:
		socket.alarm()
	default:
		do()
	}
}

func (c *clock) push(p planned) {
	c.heap = append(c.heap, p)
	i := len(c.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !p.before(c.heap[up]) {
			break
		}
		c.heap[i] = c.heap[up]
		i = up
	}
	c.heap[i] = p
}

func (c *clock) pop() planned {
	first := c.heap[0]
	n := len(c.heap) - 1
	last := c.heap[n]
	c.heap = c.heap[:n]
	if n > 0 {
		c.sink(last)
	}
	return first
}

// sink puts p in the place of the first.
func (c *clock) sink(p planned) {
	i, n := 0, len(c.heap)
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && c.heap[down+1].before(c.heap[down]) {
			down++
		}
		if !c.heap[down].before(p) {
			break
		}
		c.heap[i] = c.heap[down]
		i = down
	}
	c.heap[i] = p
}
