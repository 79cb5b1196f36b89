package daemon

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/internal/bpf"
	"nfqfw/internal/engine"
	"nfqfw/internal/nfq"
	"nfqfw/internal/packet"
	"nfqfw/internal/wire"
)

// copies are the packets that the kernel has let pass and tells of: those of handshakes that
// were granted, FINs of admitted connections, and what answers them. Whoever is about to
// judge a packet takes note of them before, so that all counts are as if they had been
// judged themselves; and so does who lists. It is safe for concurrent use.
type copies struct {
	heart
	missed atomic.Bool // some, since the kernel was last asked about everything

	mu sync.Mutex // guards what follows
	*entries
	group   *nfq.Log // nil: closed
	decoder *wire.Decoder

	records time.Duration // by how much the clock of records is ahead of the engine's time
	readAt  time.Duration // when the group is read again, though all is recorded

	packet     packet.Packet
	decision   engine.Decision
	noteCopy   func(*nfq.Message)
	noteRecord func(*bpf.Record)
}

func (d *daemon) newCopies() (*copies, error) {
	group, err := d.openLog()
	if err != nil {
		return nil, err
	}
	entries, err := d.openEntries()
	if err != nil {
		return nil, errors.Join(err, group.Close())
	}
	c := &copies{heart: heart{loop: "copies"}, entries: entries, group: group, decoder: wire.NewDecoder()}
	c.noteCopy, c.noteRecord = c.noteCopied, c.noteRecorded
	d.hearts = append(d.hearts, &c.heart)
	return c, nil
}

// openLog opens the group of copies, or goes on with the one that was inherited.
func (d *daemon) openLog() (*nfq.Log, error) {
	c := queueConfig(firstQueue, d.log)
	if d.inherited != nil {
		return nfq.InheritLog(c, d.inherited[len(d.inherited)-1]), nil
	}
	l, err := nfq.OpenLog(c)
	return l, explainTaken(err)
}

// take takes note of all copies that were made by now.
func (c *copies) take() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.group == nil {
		return
	}
	defer c.rest()
	all, err := c.takeRecorded()
	if now := c.now(); !all || now >= c.readAt {
		c.readAt = now + tickInterval // there may be some of hooks that were others
		err = errors.Join(err, c.group.Read(c.noteCopy))
	}
	if err != nil {
		c.missed.Store(true)
		c.failures.Do(func() { c.log.Warn("closings were not seen; the kernel is asked for them", "err", err) })
	}
}

func (c *copies) noteCopied(m *nfq.Message) {
	p := &c.packet
	*p = packet.Packet{InDev: m.InDev, Conn: packet.ConnEstablished, Copied: true}
	if c.decoder.Decode(m.Payload, m.Total, p) != packet.ReasonMatch {
		return // as nobody takes note of it who gets it
	}
	c.note(c.now())
}

// note has the engine take note of the packet, which passed at some time: a rate goes by
// when connections were admitted, and not by when that was noticed.
func (c *copies) note(at time.Duration) {
	c.beat()
	d, p := &c.decision, &c.packet
	c.decide(at, p, d)
	c.remember(at, p.Tuple, &d.Refusal)
	c.order(&d.Evicted)
	c.order(&d.Offload)
}

// file is another descriptor of the group's socket, for a process that inherits it.
func (c *copies) file() (*os.File, error) { return c.group.File() }

// close has nothing more taken note of. It may be called twice.
func (c *copies) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.group == nil {
		return nil
	}
	err := errors.Join(c.group.Close(), c.table.Close())
	c.group = nil
	return err
}
