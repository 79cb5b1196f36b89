package daemon

import (
	"context"
	"encoding/json"
	"iter"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
)

// timeouts answers "nfqfw timeouts".
func (d *daemon) timeouts(_ context.Context, _ json.RawMessage, send func(any) error) error {
	return send(&control.Timeouts{Timeouts: listedTimeouts(&d.config.Load().Timeouts)})
}

// listedTimeouts are the lifetimes by pf's names and in its order.
func listedTimeouts(t *conntrack.Lifetimes) (list []control.Timeout) {
	for class, lifetime := range t.Timeouts {
		list = append(list, control.Timeout{Name: conntrack.Timeout(class).String(), Value: lifetime.Seconds(), Unit: "seconds"})
	}
	return append(list,
		control.Timeout{Name: "adaptive.start", Value: float64(t.Start), Unit: "states"},
		control.Timeout{Name: "adaptive.end", Value: float64(t.End), Unit: "states"},
		control.Timeout{Name: "src.track", Value: t.SrcTrack.Seconds(), Unit: "seconds"},
	)
}

// ownTimeouts are those of a rule's that differ from the others'; marks of its own are
// shown though they are the same numbers, for they are of its own states.
func ownTimeouts(rule, others *conntrack.Lifetimes) iter.Seq2[string, float64] {
	return func(yield func(string, float64) bool) {
		all := listedTimeouts(others)
		for i, t := range listedTimeouts(rule) {
			if own := t.Unit == "states" && rule.OwnScaling; (own || t != all[i]) && !yield(t.Name, t.Value) {
				return
			}
		}
	}
}

// memory answers "nfqfw memory".
func (d *daemon) memory(_ context.Context, _ json.RawMessage, send func(any) error) error {
	l := d.config.Load().Limits
	return send(&control.Memory{Limits: []control.HardLimit{
		{Name: "states", Limit: l.States}, {Name: "src-nodes", Limit: l.SrcNodes}, {Name: "table-entries", Limit: l.TableEntries},
	}})
}
