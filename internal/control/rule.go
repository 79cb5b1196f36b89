package control

import (
	"fmt"
	"io"
	"strings"
)

// RulesArgs are the arguments of the command "rules".
type RulesArgs struct {
	Counters bool `json:"counters"` // packets and octets too, which the kernel has to be asked for
}

// Rule is a rule as "nfqfw rules --json" shows it, and what became of it since the
// start of the daemon.
type Rule struct {
	Number      int    `json:"number"` // in the file, from 1
	Name        string `json:"name"`
	Text        string `json:"text"`        // in pf's grammar
	Gone        bool   `json:"gone"`        // it has vanished by a reload, and its states finish
	Evaluations uint64 `json:"evaluations"` // packets without a state that it decided about
	Created     uint64 `json:"state_creations"`
	States      int    `json:"states"`       // now
	Nodes       int    `json:"source_nodes"` // sources with states now; 0 if it tracks globally

	// What the kernel has counted of the states there are now, both ways; null
	// unless asked for.
	Traffic *Counter `json:"traffic"`

	Refused     []ReasonCount `json:"refused"`      // by reason; those of which there are any
	WouldRefuse []ReasonCount `json:"would_refuse"` // the same with enforce = false
}

// ReasonCount is how many connections were refused for a reason.
type ReasonCount struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// WriteText writes the rule as pfctl -s rules does, with verbose 1 (-v) with its
// counters, with verbose 2 (-vv) with its number.
func (r *Rule) WriteText(w io.Writer, verbose int) error {
	var b strings.Builder
	if verbose >= 2 {
		fmt.Fprintf(&b, "@%d ", r.Number)
	}
	b.WriteString(r.Text)
	if r.Gone {
		b.WriteString(" # gone")
	}
	b.WriteByte('\n')
	if verbose >= 1 {
		r.writeCounters(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Rule) writeCounters(b *strings.Builder) {
	var t Counter
	if r.Traffic != nil {
		t = *r.Traffic
	}
	fmt.Fprintf(b, "  [ Evaluations: %-8d  Packets: %-8d  Bytes: %-10d  States: %-6d]\n", r.Evaluations, t.Packets, t.Bytes, r.States)
	fmt.Fprintf(b, "  [ Source Nodes: %-6d  State Creations: %-6d]\n", r.Nodes, r.Created)
	writeReasons(b, "Refused", r.Refused)
	writeReasons(b, "Would refuse", r.WouldRefuse)
}

func writeReasons(b *strings.Builder, title string, list []ReasonCount) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "  [ %s:", title)
	for _, c := range list {
		fmt.Fprintf(b, "  %s %d", c.Reason, c.Count)
	}
	b.WriteString(" ]\n")
}
