package control

import (
	"fmt"
	"io"
)

// Timeouts are what "nfqfw timeouts --json" shows, in pf's order.
type Timeouts struct {
	Timeouts []Timeout `json:"timeouts"`
}

// Timeout is a lifetime, or a mark of what scales them.
type Timeout struct {
	Name  string  `json:"name"` // pf's
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // "seconds" or "states"
}

// WriteText writes what pfctl -s timeouts does.
func (t *Timeouts) WriteText(w io.Writer, _ int) error {
	for _, one := range t.Timeouts {
		unit := "s"
		if one.Unit == "states" {
			unit = " states"
		}
		if _, err := fmt.Fprintf(w, "%-20s %10s%s\n", one.Name, decimal(one.Value), unit); err != nil {
			return err
		}
	}
	return nil
}
