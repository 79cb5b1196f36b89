package sim

import (
	"time"

	"nfqfw/internal/packet"
)

// link is one direction of a wire.
type link struct {
	world *world
	delay time.Duration
	to    receiver
	// What the receiver sees it come in by.
	inName string
	inDev  uint32
}

type receiver interface{ receive(*packet.Packet) }

// send has a copy of p arrive, once, twice or never.
func (l *link) send(p *packet.Packet) {
	w := l.world
	weather := &w.story.weather
	if weather.lost > 0 && w.loses(p) {
		return
	}
	stormy := w.clock.now < weather.clears
	if stormy && w.rand.Float64() < weather.loss {
		return
	}
	l.deliver(p)
	if stormy && w.rand.Float64() < weather.duplicate {
		l.deliver(p)
	}
}

func (l *link) deliver(p *packet.Packet) {
	w := l.world
	d := l.delay
	if j := w.story.weather.jitter; j > 0 {
		d += time.Duration(w.rand.Int64N(int64(j)))
	}
	e := w.clock.plan(d)
	e.link, e.packet = l, *p
	e.packet.InName, e.packet.InDev = l.inName, l.inDev
}

// loses says whether p is the one packet that this weather loses.
func (w *world) loses(p *packet.Packet) bool {
	if nameOf(p.Tuple) != w.unlucky {
		return false
	}
	w.story.weather.lost--
	if w.story.weather.lost > 0 {
		return false
	}
	if w.trace != nil {
		w.tracef("lost: %v", show(p))
	}
	return true
}
