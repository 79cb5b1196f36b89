package control

import (
	"fmt"
	"io"
)

// Syncookies are the SYN cookies, and the switch that turns them on if the mode is
// "adaptive".
type Syncookies struct {
	Mode      string `json:"mode"`   // "never", "always" or "adaptive"
	Active    bool   `json:"active"` // SYNs are answered with cookies now
	Sent      uint64 `json:"sent"`
	InKernel  uint64 `json:"in_kernel"` // of these, those that the kernel has sent by itself
	Validated uint64 `json:"validated"` // cookies that clients have repeated
	Invalid   uint64 `json:"invalid"`   // ACKs that would have to repeat one, and do not
	Pressure
}

// Pressure is a switch that goes on when more connections than a mark are
// half-open, and off when fewer are than another.
type Pressure struct {
	Rule     string   `json:"rule,omitempty"`
	On       bool     `json:"on"`
	Since    *float64 `json:"since"`    // seconds since it was last switched; null: never yet
	Switches uint64   `json:"switches"` // how often it was
	HalfOpen int      `json:"half_open"`
	Start    int      `json:"start"` // on above
	End      int      `json:"end"`   // off below
}

// writeSyncookies writes pf's counters, with verbose 1 those of the limits too, and
// its section of the same name.
func (i *Info) writeSyncookies(w io.Writer, verbose int) error {
	c := &i.Syncookies
	var list []NamedCounter
	if verbose > 0 {
		list = append(list, i.Limits...)
	}
	err := i.writeCounters(w, "Limit Counters", append(list,
		NamedCounter{"syncookies sent", c.Sent}, NamedCounter{"syncookies sent by kernel", c.InKernel}, NamedCounter{"syncookies validated", c.Validated}, NamedCounter{"syncookies invalid", c.Invalid}))
	if err != nil {
		return err
	}
	active := "inactive"
	if c.Active {
		active = "active"
	}
	_, err = fmt.Fprintf(w, "Syncookies\n  %-25s %14s\n  %-25s %14s%s\n%s",
		"mode", c.Mode, "active", active, c.since(), c.marks())
	return err
}

func (i *Info) writeAdaptive(w io.Writer) error {
	var err error
	for j := range i.Adaptive {
		p := &i.Adaptive[j]
		now := "keep"
		if p.On {
			now = "synproxy"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "Adaptive rule %s\n  %-25s %14s%s\n%s", p.Rule, "state", now, p.since(), p.marks())
		}
	}
	return err
}

// since says when a switch was last thrown.
func (p *Pressure) since() string {
	if p.Since == nil {
		return ""
	}
	return fmt.Sprintf("   since %s, switched %d times", clock(*p.Since), p.Switches)
}

func (p *Pressure) marks() string {
	return fmt.Sprintf("  %-25s %14d   on above %d, off below %d\n", "half-open", p.HalfOpen, p.Start, p.End)
}
