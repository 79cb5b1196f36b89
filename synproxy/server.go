package synproxy

import (
	"sync"
	"time"

	"nfqfw/internal/packet"
)

// maxServers bounds what is remembered. Only machines that answered a SYN get
// in, so it is reached where a rule protects half the Internet, and then the
// rest are served without window scaling.
const maxServers = 1 << 16

// noLasts is how long a server is believed that it does not scale windows. A
// Linux server says so of necessity while its queue is full and it answers with
// SYN cookies.
const noLasts = time.Minute

type learned struct {
	options packet.Options
	at      time.Duration
}

type serverKey struct {
	addr packet.Addr
	port uint16
}

// Servers is what each server answered when offered every option. The client
// is told of it before the server is asked again, as the window shift of a
// connection cannot change once the client has heard one. It is safe for
// concurrent use.
type Servers struct {
	mu      sync.RWMutex
	servers map[serverKey]learned
}

// NewServers makes an empty set.
func NewServers() *Servers { return &Servers{servers: make(map[serverKey]learned)} }

// Options are the options of the server a tuple leads to, if they are known at
// time now.
func (s *Servers) Options(t packet.Tuple, now time.Duration) (packet.Options, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l, ok := s.servers[serverKey{t.Dst, t.DstPort}]
	stale := !l.options.HasWScale && now-l.at >= noLasts
	return l.options, ok && !stale
}

// Learn remembers the options of a SYN+ACK. What the SYN did not offer, asked,
// the server could not answer: what is known of that stays.
func (s *Servers) Learn(t packet.Tuple, asked, answer packet.Options, now time.Duration) {
	key := serverKey{t.Dst, t.DstPort}
	known, ok := s.Options(t, now)
	next := packet.Options{
		MSS: answer.MSS, WScale: answer.WScale, HasWScale: answer.HasWScale, SACKPermitted: answer.SACKPermitted,
	}
	if ok && !asked.HasWScale {
		next.WScale, next.HasWScale = known.WScale, known.HasWScale
	}
	if ok && !asked.SACKPermitted {
		next.SACKPermitted = known.SACKPermitted
	}
	if ok && next == known {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.servers[key]; again || len(s.servers) < maxServers {
		s.servers[key] = learned{next, now}
	}
}
