package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/engine"
)

// sources answers "nfqfw sources".
func (d *daemon) sources(ctx context.Context, _ json.RawMessage, send func(any) error) error {
	numbers := d.ruleNumbers()
	err := d.engine.Sources(d.now(), func(l *engine.ListedSource) error {
		if ctx.Err() != nil {
			return errStopping
		}
		return send(listedSource(l, numbers))
	})
	if err != nil {
		return fmt.Errorf("sources: %w", err)
	}
	return nil
}

func listedSource(l *engine.ListedSource, numbers map[string]int) *control.Source {
	s := &control.Source{
		Source: l.Key.Prefix, Rule: l.Rule, Number: numbers[l.Rule], States: l.States, Connections: l.Conns,
		Recent: l.Recent, Age: seconds(l.Age),
	}
	if l.Rate.Count > 0 {
		s.Rate = &control.Rate{Count: l.Rate.Count, Seconds: l.Rate.Window.Seconds()}
	}
	if l.States == 0 {
		expires := seconds(l.ExpiresIn)
		s.Expires = &expires
	}
	return s
}

// seconds is a duration as listings tell it, to the millisecond.
func seconds(t time.Duration) float64 { return t.Round(time.Millisecond).Seconds() }
