package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/synproxy"
)

// info answers "nfqfw info".
func (d *daemon) info(_ context.Context, _ json.RawMessage, send func(any) error) error {
	losses, err := d.losses()
	if err != nil {
		return fmt.Errorf("info: %w", err)
	}
	d.engine.CountAnswers(d.now())
	limits := d.config.Load().Limits
	return send(&control.Info{
		Status: "enabled", Uptime: time.Since(d.started).Seconds(), Goroutines: runtime.NumGoroutine(), Counters: d.counters(), Losses: losses, Limits: d.limitCounters(),
		Evicted:    d.engine.Counters().Evicted.Load(),
		InKernel:   control.InKernel{Active: d.recorded.Load(), Admitted: d.engine.Counters().InKernel.Load()},
		States:     control.Usage{Current: d.engine.Len(), Limit: limits.States},
		Sources:    control.Usage{Current: d.engine.SourceLen(), Limit: limits.SrcNodes},
		Syncookies: d.syncookies(), Adaptive: d.adaptive(),
	})
}

func (d *daemon) syncookies() control.Syncookies {
	c, mode := d.engine.Counters(), d.config.Load().Cookies.Mode
	total := d.engine.Total()
	return control.Syncookies{
		Mode: mode.String(), Active: mode == synproxy.CookiesAlways || mode == synproxy.CookiesAdaptive && total.On,
		Sent: c.CookiesSent.Load(), InKernel: c.CookiesInKernel.Load(), Validated: c.CookiesValid.Load(), Invalid: c.CookiesInvalid.Load(),
		Pressure: d.pressure(&total),
	}
}

func (d *daemon) adaptive() []control.Pressure {
	list := []control.Pressure{}
	d.engine.Pressures(func(p engine.Pressure) { list = append(list, d.pressure(&p)) })
	return list
}

func (d *daemon) pressure(p *engine.Pressure) control.Pressure {
	out := control.Pressure{
		Rule: p.Rule, On: p.On, Switches: p.Switches, HalfOpen: p.HalfOpen, Start: p.Start, End: p.End,
	}
	if p.Switches > 0 {
		since := (d.now() - p.Since).Round(time.Millisecond).Seconds()
		out.Since = &since
	}
	return out
}

func (d *daemon) counters() []control.NamedCounter {
	c := d.engine.Counters()
	list := make([]control.NamedCounter, packet.ReasonCount)
	for r := range packet.Reason(packet.ReasonCount) {
		list[r] = control.NamedCounter{Name: r.String(), Packets: c.Reasons[r].Load()}
	}
	list[packet.ReasonMatch].Packets = c.Passed.Load()
	return list
}

// limitCounters are pf's, by its names and in its order.
func (d *daemon) limitCounters() []control.NamedCounter {
	c := d.engine.Counters()
	return []control.NamedCounter{
		{Name: "max states per rule", Packets: c.Reasons[packet.ReasonMax].Load()},
		{Name: "max-src-states", Packets: c.Reasons[packet.ReasonMaxSrcStates].Load()},
		{Name: "max-src-nodes", Packets: c.Reasons[packet.ReasonMaxSrcNodes].Load()},
		{Name: "max-src-conn", Packets: c.Reasons[packet.ReasonMaxSrcConn].Load()},
		{Name: "max-src-conn-rate", Packets: c.Reasons[packet.ReasonMaxSrcConnRate].Load()},
		{Name: "overload flush states", Packets: d.flushes.flushed.Load()},
	}
}

// losses are the packets that the engine did not see, and those of its
// decisions that were not carried out.
func (d *daemon) losses() ([]control.NamedCounter, error) {
	lost, err := d.overflow()
	if err != nil {
		return nil, err
	}
	var verdicts, segments, panics uint64
	for _, q := range d.queues {
		c := q.Counters()
		verdicts, panics = verdicts+c.VerdictErrors, panics+c.Panics
	}
	for _, s := range d.senders {
		segments += s.Counters().Failed
	}
	return []control.NamedCounter{
		{Name: "queue-dropped", Packets: lost.queue}, {Name: "queue-user-dropped", Packets: lost.socket},
		{Name: "verdict-errors", Packets: verdicts}, {Name: "segments-failed", Packets: segments},
		{Name: "panics", Packets: panics},
	}, nil
}
