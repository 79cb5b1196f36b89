package daemon

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

// entries are the kernel's entries of connections, as a loop asks about them and changes
// them. They belong to one goroutine at a time.
type entries struct {
	*daemon
	table  *offload.Table
	failed rate.Sometimes // log lines about the table
}

func (d *daemon) openEntries() (*entries, error) {
	table, err := offload.Open()
	if err != nil {
		return nil, err
	}
	e := &entries{daemon: d, table: table}
	e.limit(&e.failed)
	return e, nil
}

// limit has log lines of a kind come no faster than those of an executor may.
func (d *daemon) limit(lines *rate.Sometimes) {
	lines.First, lines.Interval = 5, lineInterval(queues(d.config.Load()))
}

// decide has the engine decide about a packet, or take note of it, with what the kernel's
// entry shows if it asks for that.
func (e *entries) decide(now time.Duration, p *packet.Packet, d *engine.Decision) {
	e.engine.Handle(now, p, d)
	if d.Offload.Op == packet.OffloadQuery {
		p.Kernel = e.query(d.Offload.Tuple)
		e.engine.Handle(now, p, d)
	}
	if d.Again {
		e.copies.take()
		p.Noted = true
		e.engine.Handle(now, p, d)
	}
}

// query asks the kernel for its entry. If it does not answer, there is taken to
// be one, and the packet to be outside its window.
func (e *entries) query(t packet.Tuple) packet.Kernel {
	k, _, err := e.table.Query(t)
	if err != nil {
		e.failed.Do(func() { e.log.Warn("conntrack", "tuple", t, "err", err) })
		return packet.KernelPresent
	}
	return k
}

// order carries out an order, and says whether it failed.
func (e *entries) order(o *packet.Offload) (failed bool) {
	err := e.try(o)
	if err != nil {
		e.failed.Do(func() { e.log.Warn("conntrack", "tuple", o.Tuple, "err", err) })
	}
	return err != nil
}

func (e *entries) try(o *packet.Offload) error {
	switch o.Op {
	case packet.OffloadCreate:
		return e.table.Create(o)
	case packet.OffloadDelete:
		return e.table.Delete(o.Tuple)
	case packet.OffloadMark:
		if err := e.table.SetMark(o.Tuple, o.Mark); !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
