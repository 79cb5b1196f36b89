package daemon

import (
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"nfqfw/internal/nfq"
	"nfqfw/internal/offload"
)

// overflow is how many packets the kernel dropped because too many waited.
type overflow struct {
	queue  uint64 // in a queue
	socket uint64 // in the buffer of its socket
}

func (o overflow) sum() uint64 { return o.queue + o.socket }

// overflow adds up what the kernel counts on the queues.
func (d *daemon) overflow() (o overflow, err error) {
	for _, q := range d.queues {
		stats, _, err := nfq.Stats(q.Number())
		if err != nil {
			return o, err
		}
		o.queue += uint64(stats.QueueDropped)
		o.socket += uint64(stats.QueueUserDropped)
	}
	return o, nil
}

// lossInterval is the least time between two lines about packets that were dropped.
const lossInterval = time.Minute

// lossTeller tells of overflows.
type lossTeller struct {
	log   *slog.Logger
	lines rate.Sometimes
	told  uint64 // packets
}

// newLossTeller is for queues that are ours, and before anything is sent to them. What
// was dropped before a takeover is not told of again.
func (d *daemon) newLossTeller() *lossTeller {
	l := &lossTeller{log: d.log, lines: rate.Sometimes{Interval: lossInterval}}
	if o, err := d.overflow(); err == nil {
		l.told = o.sum()
	}
	return l
}

// tell tells of what was dropped since the last line, if anything was.
func (l *lossTeller) tell(o overflow) {
	if o.sum() <= l.told {
		l.told = o.sum() // a queue that was bound anew counts anew
		return
	}
	l.lines.Do(func() {
		l.log.Warn("packets were dropped before they were judged: too many came at once, or the daemon did not get on",
			"packets", o.sum()-l.told, "queue_dropped", o.queue, "queue_user_dropped", o.socket)
		l.told = o.sum()
	})
}

// tellLosses tells of packets that nobody has judged.
func (r *repairer) tellLosses() {
	if o, err := r.overflow(); err == nil {
		r.overflows.tell(o)
	}
}

// tellFull tells when the kernel's conntrack table becomes full, and when it is so no
// more. Then the kernel drops what would begin a connection, without asking anybody.
func (r *repairer) tellFull() {
	entries, limit, err := offload.Usage()
	if err != nil || (entries >= limit-limit/100) == r.full {
		return
	}
	r.full = !r.full
	if r.full {
		r.log.Warn("the kernel's conntrack table is full, and it drops new connections; raise net.netfilter.nf_conntrack_max", "entries", entries, "limit", limit)
	} else {
		r.log.Info("the kernel's conntrack table has room again", "entries", entries, "limit", limit)
	}
}
