package daemon

import (
	"math"

	"nfqfw/internal/bpf"
	"nfqfw/internal/config"
	"nfqfw/internal/hooks"
	"nfqfw/internal/packet"
)

// openPrograms loads what has the kernel pass SYNs that are granted, and tell of them: as
// long as the process may. Without, each SYN waits in a queue. They are open until the
// process ends, and with it end their grants.
func (d *daemon) openPrograms() {
	if d.config.Load().Daemon.BPF == config.BPFNever {
		return
	}
	p, err := bpf.Open(randomKey()[0], d.bequest)
	if err != nil {
		d.tellNoPrograms(err)
		return
	}
	d.programs = p
	d.engine.SetGrants(p.Grants)
	if err := d.openAnswerer(); err != nil {
		d.log.Info("each SYN waits for user space under a flood, too: no program of BPF that answers", "err", err)
	}
}

func (d *daemon) tellNoPrograms(err error) {
	d.log.Info("each SYN waits for user space: no programs of BPF", "err", err)
}

// pinPrograms has the hooks refer to the programs. Who has not got the queues has not come
// here: there are no others' pins.
func (d *daemon) pinPrograms() {
	if d.programs == nil {
		return
	}
	if err := d.programs.Pin(); err != nil {
		d.tellNoPrograms(err)
		return
	}
	d.hooks = d.newHooks(d.config.Load(), d.finishing)
}

// programPaths are the programs that hooks may ask, or nil.
func (d *daemon) programPaths() *hooks.Programs {
	if d.programs == nil || !d.programs.Pinned() {
		return nil
	}
	return &hooks.Programs{Opens: d.programs.Opens(), Admits: d.programs.Admits(), Records: d.programs.Records(), Unproven: d.programs.Unproven()}
}

// unpinPrograms is for when no hooks refer to them.
func (d *daemon) unpinPrograms() error {
	if d.programs == nil {
		return nil
	}
	return d.programs.Unpin()
}

// asked says whether the hooks that are in ask the programs.
func (d *daemon) asked(yes bool) {
	d.recorded.Store(yes)
	d.engine.Granting(d.now(), yes)
}

// withdraw takes back what was granted, for what decides about SYNs has changed.
func (d *daemon) withdraw() {
	if d.engine != nil {
		d.engine.Withdraw(d.now())
	}
}

// takeRecorded takes note of what the kernel has recorded, and says whether that was all
// there is to take note of: not if the hooks that are in have none recorded.
func (c *copies) takeRecorded() (all bool, err error) {
	if c.programs == nil {
		return false, nil
	}
	c.records = bpf.Now() - c.now()
	err = c.programs.Ring.Read(c.noteRecord)
	return c.recorded.Load() && !c.programs.Ring.Missed(), err
}

func (c *copies) noteRecorded(r *bpf.Record) {
	p := &c.packet
	*p = packet.Packet{InDev: r.Ifindex, Copied: true, Conn: packet.ConnEstablished, Admitted: r.Admitted, Grant: r.Grant}
	if c.decoder.Decode(r.Packet, math.MaxInt32, p) != packet.ReasonMatch {
		return // as nobody takes note of it who gets it
	}
	if opens := p.Flags.Has(packet.SYN); opens || p.Admitted { // a rule may be asked
		in := c.interfaces.link(r.Ifindex)
		p.InName = in.name
		if opens {
			p.Conn = packet.ConnNone // as where it is judged: conntrack has not looked
			clampMSS(p, in.mtu)
		}
	}
	c.note(r.At - c.records)
}
