package daemon

import (
	"context"
	"encoding/json"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
	"nfqfw/internal/packet"
)

// info answers "nfqfw info".
func (d *daemon) info(_ context.Context, _ json.RawMessage, send func(any) error) error {
	sources := 0
	d.engine.Sources(func(conntrack.SourceKey, int) { sources++ })
	limits := d.config.Limits
	return send(&control.Info{
		Status: "enabled", Uptime: time.Since(d.started).Seconds(), Counters: d.counters(),
		States:  control.Usage{Current: d.engine.Len(), Limit: limits.States},
		Sources: control.Usage{Current: sources, Limit: limits.SrcNodes},
	})
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
