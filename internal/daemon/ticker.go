package daemon

import (
	"context"
	"errors"
	"time"

	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

const (
	tickInterval = 100 * time.Millisecond
	lookInterval = 20  // ticks between looks at interfaces and listening sockets
	keyInterval  = 150 // ticks between new keys: a SYN cookie is good for 15 to 30 s, as pf's
)

// ticker does what is due without a packet.
type ticker struct {
	*executor
	links    *linkWatch
	decision engine.Decision
}

func (d *daemon) newTicker() (*ticker, error) {
	x, err := d.newExecutor("ticker")
	if err != nil {
		return nil, err
	}
	links, err := openLinkWatch(d.log)
	if err != nil {
		return nil, errors.Join(err, x.close())
	}
	return &ticker{executor: x, links: links}, nil
}

func (t *ticker) close() error { return errors.Join(t.executor.close(), t.links.con.Close()) }

func (t *ticker) run(ctx context.Context) error {
	clock := time.NewTicker(tickInterval)
	defer clock.Stop()
	for turn := 1; ; {
		select {
		case <-ctx.Done():
			return t.close()
		case <-t.links.changed:
			t.change(t.lookAtLinks)
		case <-t.answersBegun():
			t.change(t.answerOn)
		case <-clock.C:
			t.change(func() { t.turn(turn) })
			turn++
		}
	}
}

func (t *ticker) turn(turn int) {
	t.beat()
	defer t.rest()
	t.copies.take()
	t.engine.Tick(t.now(), t.do)
	t.flush()
	t.tables.Sweep(t.now())
	t.engine.Switches(t.logSwitch)
	t.answerOn()
	if turn%lookInterval == 0 {
		t.lookAtLinks()
		t.refreshBacklogs()
	}
	if turn%keyInterval == 0 {
		t.engine.RotateKey(randomKey())
	}
}

// lookAtLinks takes over what interfaces there are, and has states follow them.
func (t *ticker) lookAtLinks() {
	t.interfaces.refresh()
	if moved := t.interfaces.takeMoved(); moved != nil {
		t.engine.FollowDevices(moved)
		t.withdraw()
		t.log.Info("interfaces were made anew, and their states follow", "interfaces", len(moved))
	}
}

func (t *ticker) do(d *engine.Decision) {
	if d.Offload.Op == packet.OffloadQuery {
		t.askIdle(d.Offload.Tuple)
		return
	}
	t.carryOut(d)
}

// logSwitch says when the SYN proxy took over from a rule, or gave back, and when it
// began or ended to answer with cookies.
func (t *ticker) logSwitch(p engine.Pressure) {
	attrs := []any{"half_open", p.HalfOpen, "start", p.Start, "end", p.End}
	what := [2]string{"syncookies inactive", "syncookies active"}
	if p.Rule != "" {
		what = [2]string{"adaptive rule keeps state", "adaptive rule proxies"}
		attrs = append(attrs, "rule", p.Rule)
	}
	message := what[0]
	if p.On {
		message = what[1]
	}
	t.log.Info(message, attrs...)
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
