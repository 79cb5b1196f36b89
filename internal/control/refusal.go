package control

import (
	"fmt"
	"io"
	"net/netip"
	"time"
)

// RefusalsArgs are the arguments of the command "refusals": which ones are shown.
// The zero value shows all.
type RefusalsArgs struct {
	Since  float64      `json:"since,omitempty"` // seconds ago at most; 0: however long
	Source netip.Prefix `json:"source,omitzero"`
	Rules  []string     `json:"rules,omitempty"` // by one of these rules
}

// Refusals are what "nfqfw refusals --json" shows, the last ones last.
type Refusals struct {
	Refusals []Refusal `json:"refusals"`
	Lost     uint64    `json:"lost"` // older ones that are not remembered
}

// Refusal is a connection that a rule or a limit refused, or would have.
type Refusal struct {
	Time     time.Time `json:"time"` // RFC 3339
	Source   End       `json:"source"`
	Dest     End       `json:"destination"`
	Reason   string    `json:"reason"`
	Rule     string    `json:"rule"`     // empty: none
	Count    uint64    `json:"count"`    // how many there were, if a limit refused
	Limit    uint64    `json:"limit"`    // and how many there may be; 0: it was no limit
	Window   float64   `json:"window"`   // in so many seconds; 0: at one time
	Enforced bool      `json:"enforced"` // false: it was counted, and the connection was let go on
}

// End is an address and a port.
type End struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
}

// WriteText writes a line for each, after one about those that are lost.
func (r *Refusals) WriteText(w io.Writer, _ int) error {
	var b []byte
	if r.Lost > 0 {
		b = fmt.Appendf(b, "# %d older ones are not remembered\n", r.Lost)
	}
	for i := range r.Refusals {
		b = r.Refusals[i].appendText(b)
	}
	_, err := w.Write(b)
	return err
}

func (r *Refusal) appendText(b []byte) []byte {
	b = r.Time.Local().AppendFormat(b, time.DateTime)
	b = appendEndpoint(append(b, ' '), r.Source.Address, r.Source.Port)
	b = appendEndpoint(append(b, " -> "...), r.Dest.Address, r.Dest.Port)
	b = fmt.Appendf(b, " %s", r.Reason)
	switch {
	case r.Window > 0:
		b = fmt.Appendf(b, " %d/%ss (%d admitted)", r.Limit, decimal(r.Window), r.Count)
	case r.Limit > 0:
		b = fmt.Appendf(b, " %d/%d", r.Count, r.Limit)
	}
	if r.Rule != "" {
		b = fmt.Appendf(b, ", rule %s", r.Rule)
	}
	if !r.Enforced {
		b = append(b, " (not enforced)"...)
	}
	return append(b, '\n')
}
