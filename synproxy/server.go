package synproxy

import (
	"sync"

	"nfqfw/internal/packet"
)

// maxServers bounds what is remembered. Only machines that answered a SYN get
// in, so it is reached where a rule protects half the Internet, and then the
// rest are served without window scaling.
const maxServers = 1 << 16

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
	options map[serverKey]packet.Options
}

// NewServers makes an empty set.
func NewServers() *Servers { return &Servers{options: make(map[serverKey]packet.Options)} }

// Options are the options of the server a tuple leads to, if it is known.
func (s *Servers) Options(t packet.Tuple) (packet.Options, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.options[serverKey{t.Dst, t.DstPort}]
	return o, ok
}

// Learn remembers the options of a SYN+ACK. What the SYN did not offer, asked,
// the server could not answer: what is known of that stays.
func (s *Servers) Learn(t packet.Tuple, asked, answer packet.Options) {
	key := serverKey{t.Dst, t.DstPort}
	known, ok := s.Options(t)
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
	if _, again := s.options[key]; again || len(s.options) < maxServers {
		s.options[key] = next
	}
}
