package control

import (
	"fmt"
	"io"
	"time"
)

// Info is the firewall at a glance, as "nfqfw info --json" shows it.
type Info struct {
	Status string  `json:"status"` // "enabled"
	Uptime float64 `json:"uptime"` // seconds

	Goroutines int `json:"goroutines"` // of the daemon: as many in the long run as at the start

	States   Usage          `json:"states"`
	Evicted  uint64         `json:"evicted"` // states that made room for others: closed ones, or the oldest half-open
	InKernel InKernel       `json:"in_kernel"`
	Sources  Usage          `json:"sources"`
	Counters []NamedCounter `json:"counters"`       // in pf's order
	Losses   []NamedCounter `json:"losses"`         // what no decision lost: all are 0 while all is well
	Limits   []NamedCounter `json:"limit_counters"` // what limits refused, and what overload did, by pf's names

	Syncookies Syncookies `json:"syncookies"`
	Adaptive   []Pressure `json:"adaptive"` // a switch for each rule with state = "adaptive"
}

// InKernel is what the kernel carries out by itself, by programs of BPF.
type InKernel struct {
	Active   bool   `json:"active"`   // it may
	Admitted uint64 `json:"admitted"` // connections
}

// Usage is how full a table is.
type Usage struct {
	Current int `json:"current"`
	Limit   int `json:"limit"`
}

// NamedCounter counts the packets that met one fate. Of Info.Counters, "match"
// is to pass, and every other name says why they were dropped.
type NamedCounter struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
}

// WriteText writes what pfctl -s info does; with verbose 1 (-v) it tells of the source
// tracking table and of what the limits of rules refused too.
func (i *Info) WriteText(w io.Writer, verbose int) error {
	up := time.Duration(i.Uptime) * time.Second
	const day = 24 * time.Hour
	_, err := fmt.Fprintf(w, "Status: Enabled for %d days %s\n\n%-27s %14s %16s\n%s",
		up/day, clock((up % day).Seconds()), "State Table", "Total", "Rate", i.States.row()+i.row("evicted", i.Evicted)+i.row("admitted in kernel", i.InKernel.Admitted))
	if verbose > 0 && err == nil {
		_, err = fmt.Fprintf(w, "Source Tracking Table\n%s", i.Sources.row())
	}
	if err == nil {
		err = i.writeCounters(w, "Counters", i.Counters)
	}
	if err == nil {
		err = i.writeCounters(w, "Losses", i.Losses)
	}
	if err == nil {
		err = i.writeSyncookies(w, verbose)
	}
	if err == nil {
		err = i.writeAdaptive(w)
	}
	return err
}

func (i *Info) writeCounters(w io.Writer, title string, list []NamedCounter) error {
	_, err := fmt.Fprintln(w, title)
	for _, c := range list {
		if err == nil {
			_, err = io.WriteString(w, i.row(c.Name, c.Packets))
		}
	}
	return err
}

// row is how many entries a table has; that has no rate.
func (u Usage) row() string { return fmt.Sprintf("  %-25s %14d\n", "current entries", u.Current) }

// row is a count, and its rate.
func (i *Info) row(name string, count uint64) string {
	return fmt.Sprintf("  %-25s %14d %16s\n", name, count, i.rate(count))
}

// rate is the mean since the start, as in pf.
func (i *Info) rate(count uint64) string {
	return fmt.Sprintf("%.1f/s", float64(count)/max(i.Uptime, 1))
}
