package control

import (
	"fmt"
	"io"
	"time"
)

// What "nfqfw table NAME" can do.
const (
	TableShow   = "show"
	TableAdd    = "add"
	TableDelete = "delete"
	TableTest   = "test"
	TableFlush  = "flush"
)

// TableArgs are the arguments of the command "table".
type TableArgs struct {
	Table     string   `json:"table"`
	Command   string   `json:"command"`
	Addresses []string `json:"addresses,omitempty"` // addresses and networks, with ! before them if negated
	TTL       *float64 `json:"ttl,omitempty"`       // add: seconds, 0 for ever; absent: as the table says
	Counters  bool     `json:"counters,omitempty"`  // show: those too, which the kernel has to be asked for
}

// TableEntry is an entry of a table as "nfqfw table NAME show --json" shows it.
type TableEntry struct {
	Address string    `json:"address"` // an address or a network
	Negated bool      `json:"negated"` // the table does not hold it
	Origin  string    `json:"origin"`  // "file", "command" or "overload"
	Cleared time.Time `json:"cleared"` // when it came
	Expires *float64  `json:"expires"` // seconds from now; null: never

	// What the kernel dropped by it; null unless asked for, and where no rule has
	// the kernel drop by the table.
	InBlock *Counter `json:"in_block"`
}

// WriteText writes what pfctl -T show does; verbose, as with -v, when the entry came
// and what was dropped by it, then where it is from and how long it stays.
func (e *TableEntry) WriteText(w io.Writer, verbose int) error {
	sign := ' '
	if e.Negated {
		sign = '!'
	}
	_, err := fmt.Fprintf(w, "  %c%s\n", sign, e.Address)
	if verbose == 0 || err != nil {
		return err
	}
	text := fmt.Sprintf("\tCleared:     %s\n", e.Cleared.Local().Format(time.ANSIC))
	if c := e.InBlock; c != nil {
		text += fmt.Sprintf("\tIn/Block:    [ Packets: %-18d Bytes: %-18d ]\n", c.Packets, c.Bytes)
	}
	text += fmt.Sprintf("\tOrigin:      %s\n", e.Origin)
	if e.Expires != nil {
		text += fmt.Sprintf("\tExpires in:  %s\n", clock(*e.Expires))
	}
	_, err = io.WriteString(w, text)
	return err
}

// TableDone is what a command has done to a table, or found in it, as its --json shows.
type TableDone struct {
	Table   string `json:"table"`
	Command string `json:"command"`
	Given   int    `json:"given"` // addresses that the command named
	Done    int    `json:"done"`  // those that were added, were deleted, or match
}

// WriteText writes pfctl's summary.
func (d *TableDone) WriteText(w io.Writer) error {
	text := map[string]string{TableAdd: "%d/%d addresses added.\n", TableDelete: "%d/%d addresses deleted.\n", TableTest: "%d/%d addresses match.\n"}
	if format, ok := text[d.Command]; ok {
		_, err := fmt.Fprintf(w, format, d.Done, d.Given)
		return err
	}
	_, err := fmt.Fprintf(w, "%d addresses deleted.\n", d.Done)
	return err
}

// Table is a table as "nfqfw table --json" shows it.
type Table struct {
	Name    string  `json:"name"`
	Entries int     `json:"entries"`
	TTL     float64 `json:"ttl"` // seconds that an entry stays that is added; 0: for ever
}

// WriteText writes what pfctl -s Tables does, the name; verbose, as with -v, how many
// entries there are and how long they stay.
func (t *Table) WriteText(w io.Writer, verbose int) error {
	if verbose == 0 {
		_, err := fmt.Fprintln(w, t.Name)
		return err
	}
	text := fmt.Sprintf("%s\n\tAddresses:   %d\n", t.Name, t.Entries)
	if t.TTL > 0 {
		text += fmt.Sprintf("\tTTL:         %s\n", clock(t.TTL))
	}
	_, err := io.WriteString(w, text)
	return err
}
