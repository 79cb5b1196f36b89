package daemon

import (
	"context"
	"encoding/json"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
)

// timeouts answers "nfqfw timeouts".
func (d *daemon) timeouts(_ context.Context, _ json.RawMessage, send func(any) error) error {
	t := &d.config.Load().Timeouts
	var list []control.Timeout
	for class, lifetime := range t.Timeouts {
		list = append(list, control.Timeout{Name: conntrack.Timeout(class).String(), Value: lifetime.Seconds(), Unit: "seconds"})
	}
	return send(&control.Timeouts{Timeouts: append(list,
		control.Timeout{Name: "adaptive.start", Value: float64(t.Start), Unit: "states"},
		control.Timeout{Name: "adaptive.end", Value: float64(t.End), Unit: "states"},
		control.Timeout{Name: "src.track", Value: t.SrcTrack.Seconds(), Unit: "seconds"},
	)})
}

// memory answers "nfqfw memory".
func (d *daemon) memory(_ context.Context, _ json.RawMessage, send func(any) error) error {
	l := d.config.Load().Limits
	return send(&control.Memory{Limits: []control.HardLimit{
		{Name: "states", Limit: l.States}, {Name: "src-nodes", Limit: l.SrcNodes}, {Name: "table-entries", Limit: l.TableEntries},
	}})
}
