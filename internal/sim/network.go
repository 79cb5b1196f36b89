package sim

import (
	"math/rand/v2"
	"time"

	"nfqfw/internal/packet"
)

// link is one direction of a wire.
type link struct {
	clock     *clock
	rand      *rand.Rand
	delay     time.Duration
	jitter    time.Duration // more than the gap between two packets reorders them
	loss      float64
	duplicate float64
	deliver   func(packet.Packet)
}

func (l *link) send(p packet.Packet) {
	if l.rand.Float64() < l.loss {
		return
	}
	l.clock.after(l.latency(), func() { l.deliver(p) })
	if l.rand.Float64() < l.duplicate {
		l.clock.after(l.latency(), func() { l.deliver(p) })
	}
}

func (l *link) latency() time.Duration {
	d := l.delay
	if l.jitter > 0 {
		d += time.Duration(l.rand.Int64N(int64(l.jitter)))
	}
	return d
}
