package daemon

import (
	"context"
	"encoding/json"
	"sync"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
)

// killer ends connections. It is safe for concurrent use.
type killer struct {
	mu sync.Mutex
	*executor
}

func (d *daemon) newKiller() (*killer, error) {
	x, err := d.newExecutor("killer")
	if err != nil {
		return nil, err
	}
	return &killer{executor: x}, nil
}

// kill ends the connections that match, and says how many.
func (k *killer) kill(match func(*conntrack.State, string) bool, silent bool) (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.change(func() {
		k.beat()
		defer k.rest()
		n = k.engine.Kill(k.now(), match, silent, func(d *engine.Decision) { k.carryOut(d) })
		k.flush()
	})
	return n
}

// answerKill answers "nfqfw kill".
func (d *daemon) answerKill(_ context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.KillArgs
	if err := parseArgs("kill", raw, &args); err != nil {
		return err
	}
	if err := d.knowRules("kill", args.Filter.Rules); err != nil {
		return err
	}
	n := d.killer.kill(func(s *conntrack.State, rule string) bool {
		return (args.ID == 0 || args.ID == s.ID) && d.chooses(&args.Filter, s, rule)
	}, args.Silent)
	d.log.Info("states killed", "states", n, "silent", args.Silent)
	return send(&control.Killed{States: n})
}

// run ends, until ctx does, the connections of sources that are to be flushed.
func (k *killer) run(ctx context.Context) error {
	sources, states := 0, 0 // since the last line
	for {
		select {
		case <-ctx.Done():
			return k.close()
		case <-k.flushes.wake:
		}
		pending := k.flushes.take()
		n := k.kill(pending.holds, false)
		k.flushes.flushed.Add(uint64(n))
		sources, states = sources+len(pending), states+n
		k.executor.flushed.Do(func() {
			k.log.Info("states of overloading sources flushed", "sources", sources, "states", states)
			sources, states = 0, 0
		})
	}
}
