package integration

import (
	"net/netip"
	"sync"
)

// A sampler looks all the time how many connections of a source a server
// holds.
type sampler struct {
	stop    func()
	Max     int // the most there were at any sampled moment
	Samples int
	Err     error
}

// sample starts a sampler. The kernel does not list all sockets at one moment:
// one may be listed before it ends, and then another that only begins after.
// So a sample is what two successive listings have in common: those sockets
// were all there between the two.
func (g *guarded) sample(from netip.Addr) *sampler {
	s := &sampler{}
	var wg sync.WaitGroup
	done := make(chan struct{})
	s.stop = sync.OnceFunc(func() { close(done); wg.Wait() })
	g.t.Cleanup(s.stop)
	wg.Go(func() {
		var before map[uint64]bool
		for s.Err == nil {
			select {
			case <-done:
				return
			default:
			}
			before = s.look(g, from, before)
		}
	})
	return s
}

// look takes one listing and compares it with the one before.
func (s *sampler) look(g *guarded, from netip.Addr, before map[uint64]bool) map[uint64]bool {
	list, err := g.server().Sockets(Established, CloseWait)
	if err != nil {
		s.Err = err
		return nil
	}
	now, common := make(map[uint64]bool), 0
	for _, k := range list.Local(g.srv.Addr().Port()).From(from) {
		now[k.Cookie] = true
		if before[k.Cookie] {
			common++
		}
	}
	s.Max = max(s.Max, common)
	s.Samples++
	return now
}

// expect ends the sampling and fails the test if there were ever more than
// limit.
func (s *sampler) expect(g *guarded, limit int) {
	g.t.Helper()
	s.stop()
	if s.Err != nil {
		g.t.Errorf("sample: %v", s.Err)
	}
	g.t.Logf("at most %d of %d in %d samples", s.Max, limit, s.Samples)
	if s.Max > limit {
		g.t.Errorf("the server held %d connections, the limit is %d", s.Max, limit)
	}
}
