package daemon

import (
	"context"
	"time"

	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

const (
	tickInterval  = 100 * time.Millisecond
	namesInterval = 20  // ticks between looks at the interfaces
	keyInterval   = 150 // ticks between new keys: a SYN cookie is good for 15 to 30 s, as pf's
)

// ticker does what is due without a packet.
type ticker struct {
	*executor
	decision engine.Decision
}

func (d *daemon) newTicker() (*ticker, error) {
	x, err := d.newExecutor()
	if err != nil {
		return nil, err
	}
	return &ticker{executor: x}, nil
}

func (t *ticker) run(ctx context.Context) error {
	clock := time.NewTicker(tickInterval)
	defer clock.Stop()
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return t.close()
		case <-clock.C:
		}
		t.engine.Tick(t.now(), t.do)
		t.flush()
		if turn%namesInterval == 0 {
			t.names.refresh()
		}
		if turn%keyInterval == 0 {
			t.engine.RotateKey(randomKey())
		}
	}
}

func (t *ticker) do(d *engine.Decision) {
	if d.Offload.Op == packet.OffloadQuery {
		t.askIdle(d.Offload.Tuple)
		return
	}
	t.carryOut(d)
}

// askIdle looks how long the kernel has seen nothing of a connection whose time
// is over by what came to user space. If it cannot tell, the connection lives on.
func (t *ticker) askIdle(tuple packet.Tuple) {
	found, entry, err := t.table.Query(tuple)
	var idle time.Duration
	if err == nil && found != packet.KernelAbsent {
		idle, err = offload.Idle(entry)
	}
	if err != nil {
		t.failed.Do(func() { t.log.Warn("conntrack", "tuple", tuple, "err", err) })
		return
	}
	t.engine.Idle(t.now(), tuple, idle, found != packet.KernelAbsent, &t.decision)
	t.carryOut(&t.decision)
}
