package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"golang.org/x/time/rate"

	"nfqfw/internal/engine"
	"nfqfw/internal/inject"
	"nfqfw/internal/nfq"
	"nfqfw/internal/packet"
	"nfqfw/internal/wire"
)

// executor carries decisions out. It belongs to one goroutine.
type executor struct {
	*entries
	heart
	sender  *inject.Sender // of segments that conntrack is not to see
	tracked *inject.Sender // of those it is
	refused rate.Sometimes // log lines about refusals
	put     rate.Sometimes // and about sources that are put into a table
	flushed rate.Sometimes // and about those whose states are flushed
}

// newExecutor makes the executor of a loop.
func (d *daemon) newExecutor(loop string) (*executor, error) {
	sender, err := inject.Open(packet.MarkOwn, d.log)
	if err != nil {
		return nil, err
	}
	tracked, err := inject.Open(packet.MarkTracked, d.log)
	if err != nil {
		return nil, errors.Join(err, sender.Close())
	}
	entries, err := d.openEntries()
	if err != nil {
		return nil, errors.Join(err, sender.Close(), tracked.Close())
	}
	d.senders = append(d.senders, sender, tracked)
	x := &executor{entries: entries, heart: heart{loop: loop}, sender: sender, tracked: tracked}
	for _, lines := range []*rate.Sometimes{&x.refused, &x.put, &x.flushed} {
		d.limit(lines)
	}
	d.hearts = append(d.hearts, &x.heart)
	return x, nil
}

// lineInterval is between two log lines of one kind and one executor: all together write
// no more than a few a second.
func lineInterval(queues int) time.Duration {
	const linesPerSecond = 4
	return max(time.Second, time.Duration(queues)*time.Second/linesPerSecond)
}

func (x *executor) close() error {
	return errors.Join(x.sender.Close(), x.tracked.Close(), x.table.Close())
}

// flush sends the segments. Those that conntrack sees complete a handshake, so
// they come last.
func (x *executor) flush() {
	x.sender.Flush()
	x.tracked.Flush()
}

// carryOut does what a decision orders but for the verdict. The segments leave with the
// next flush; at once, if conntrack is to see one of them. Should somebody flush the
// kernel's table between the order and the segment, it would leave with numbers that are
// not translated, and its connection be reset.
func (x *executor) carryOut(d *engine.Decision) {
	x.beat()
	x.order(&d.Evicted)
	if failed := x.order(&d.Offload); failed && d.Offload.Join {
		x.engine.Abort(x.now(), d.Offload.Tuple, d)
	}
	if d.Overload.Table != "" {
		x.overload(&d.Overload)
	}
	tracked := false
	segments := d.Segments()
	for i := range segments {
		if segments[i].Tracked {
			x.tracked.Add(&segments[i])
			tracked = true
		} else {
			x.sender.Add(&segments[i])
		}
	}
	if tracked {
		x.flush()
	}
}

// worker takes the packets of one queue through to their verdicts.
type worker struct {
	*executor
	queue    *nfq.Queue
	decoder  *wire.Decoder
	packet   packet.Packet
	decision engine.Decision
	unlogged int // drops since the last line about one
	links    *linkWatch
	looked   bool // at what happened before this batch

	batch  int           // packets that it has at most
	judged int           // packets of this batch
	behind time.Duration // since when every batch was full; 0: the last was not
}

// lagTime is for how long the queue may never be found empty until there are too many
// packets: longer than a burst of clients takes.
const lagTime = 50 * time.Millisecond

// lag notes whether more packets wait than one batch takes, and tells if that has gone on for
// too long.
func (w *worker) lag() {
	full := w.judged == w.batch
	w.judged = 0
	if !full {
		w.behind = 0
		return
	}
	switch now := w.now(); {
	case w.behind == 0:
		w.behind = now
	case now >= w.behind+lagTime:
		w.engine.Overrun(now)
	}
}

func (d *daemon) newWorker(i int) (*worker, error) {
	q, err := d.openQueue(i)
	if err != nil {
		return nil, err
	}
	x, err := d.newExecutor(fmt.Sprintf("queue %d", q.Number()))
	if err != nil {
		return nil, errors.Join(err, q.Close())
	}
	links, err := openLinkWatch(d.log)
	if err != nil {
		return nil, errors.Join(err, q.Close(), x.close())
	}
	d.queues = append(d.queues, q)
	return &worker{executor: x, queue: q, decoder: wire.NewDecoder(), links: links, batch: nfq.Default().Batch}, nil
}

func (w *worker) run(ctx context.Context) error {
	return errors.Join(w.queue.Run(ctx, w), w.close())
}

func (w *worker) close() error {
	return errors.Join(w.queue.Close(), w.links.con.Close(), w.executor.close())
}

// Handle is the way of a packet: decode, decide, carry out, answer.
func (w *worker) Handle(m *nfq.Message) {
	w.beat()
	w.judged++
	w.look()
	if r := w.decode(m); r != packet.ReasonMatch {
		w.engine.Counters().Reasons[r].Add(1)
		w.decision = engine.Decision{Reason: r}
		w.logDrop()
		return // not answered is dropped
	}
	d, p, now := &w.decision, &w.packet, w.now()
	w.decide(now, p, d)
	w.remember(now, p.Tuple, &d.Refusal)
	w.carryOut(d)
	m.Answer(d.Verdict, d.Mark)
	if d.Verdict == packet.Drop && d.Reason != packet.ReasonSynproxy {
		w.logDrop()
	}
}

// look takes over what has happened before the packets of a batch came, and wanted no
// verdict: what has become of interfaces, for a rule that names one holds for the first SYN
// by the interface that has the name now; and which connections have closed.
func (w *worker) look() {
	if w.looked {
		return
	}
	w.looked = true
	if w.links.news() {
		w.interfaces.refresh()
		w.withdraw()
	}
	w.copies.take()
}

// Flush sends the segments of a batch.
func (w *worker) Flush() {
	w.looked = false
	w.flush()
	w.lag()
	w.tellBegun()
	w.rest()
}

func (w *worker) decode(m *nfq.Message) packet.Reason {
	p := &w.packet
	*p = packet.Packet{} // a refused one is not to be logged under the tuple of the last
	r := w.decoder.Decode(m.Payload, m.Total, p)
	captured := len(m.Payload) == m.Total
	if r == packet.ReasonMatch && m.ChecksumNotVerified && !m.ChecksumNotReady && !m.GSO && captured {
		r = w.decoder.Verify()
	}
	in := w.interfaces.link(m.InDev)
	p.InDev, p.InName = m.InDev, in.name
	clampMSS(p, in.mtu)
	p.Conn = packet.ConnOf(m.Mark, p.Flags.Has(packet.SYN))
	p.Kernel = packet.KernelNotAsked
	return r
}

// clampMSS has a side say of itself that it can take no more than the interface its packet
// came in by has room for, as the packet says then: what the other side is told bounds what
// will leave by that interface. An MTU of 0 is not known.
func clampMSS(p *packet.Packet, mtu int) {
	const headers4, headers6 = 40, 60 // of IP and TCP without options (RFC 6691 section 2)
	room := mtu - headers6
	if p.Is4() {
		room = mtu - headers4
	}
	if room <= 0 {
		return
	}
	p.InRoom = uint16(min(room, math.MaxUint16))
	p.Options.MSS = min(p.Options.MSS, p.InRoom)
}

// logDrop tells of refusals, and with --debug of every dropped packet; the
// limiter comes before any formatting, and the next line says what it held back.
func (w *worker) logDrop() {
	d := &w.decision
	level := slog.LevelDebug
	if d.Refusal.Limit > 0 {
		level = slog.LevelInfo
	}
	if !w.log.Enabled(context.Background(), level) {
		return
	}
	w.unlogged++
	w.refused.Do(func() {
		attrs := []any{"reason", d.Reason, "tuple", w.packet.Tuple, "flags", w.packet.Flags}
		r := &d.Refusal
		if r.Rule != "" {
			attrs = append(attrs, "rule", r.Rule)
		}
		if r.Limit > 0 {
			attrs = append(attrs, "connections", r.Count, "limit", r.Limit)
		}
		if w.unlogged > 1 {
			attrs = append(attrs, "not_logged_before", w.unlogged-1)
		}
		w.log.Log(context.Background(), level, "dropped", attrs...)
		w.unlogged = 0
	})
}
