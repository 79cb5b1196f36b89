package integration

import (
	"testing"
	"time"
)

// stopLoad is how many connections a client makes in all, while the daemon stops and is
// started again.
const stopLoad = 4000

// Of short connections that come all the time, none fails for a daemon that is stopped and
// started: handshakes under way are finished first, and who comes while nobody is there
// comes again a second later.
func TestStopUnderShortLoad(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			l, at := newLab(t, Options{}), places[0]
			fw := startFirewall(t, l, webConfig(policy, 2*reuseWorkers))
			load := newShortLoad(l, at, IPv4, stopLoad)
			load.Ports = stopLoad
			answerShort(t, at.ns(l), load.To)
			done := make(chan *ShortResult)
			go func() { done <- load.Run(testContext(t)) }()
			time.Sleep(pause)
			if err := fw.Stop(); err != nil {
				t.Error(err)
			}
			if err := fw.Start(t.Context()); err != nil {
				t.Error(err)
			}
			r := <-done
			t.Log(r)
			if len(r.Took) != stopLoad {
				t.Errorf("%d of %d answered, the first failure: %v", len(r.Took), stopLoad, r.Failures)
			}
		})
	}
}
