package control

import (
	"fmt"
	"io"
)

// Memory is what "nfqfw memory --json" shows: the hard limits of the tables.
type Memory struct {
	Limits []HardLimit `json:"limits"`
}

// HardLimit is how many entries a table may have.
type HardLimit struct {
	Name  string `json:"name"` // pf's
	Limit int    `json:"limit"`
}

// WriteText writes what pfctl -s memory does.
func (m *Memory) WriteText(w io.Writer, _ int) error {
	for _, l := range m.Limits {
		if _, err := fmt.Fprintf(w, "%-13s hard limit %8d\n", l.Name, l.Limit); err != nil {
			return err
		}
	}
	return nil
}
