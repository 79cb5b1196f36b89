package control

import (
	"fmt"
	"io"
)

// KillArgs are the arguments of the command "kill": which states, all of what is said
// to hold.
type KillArgs struct {
	Filter StateFilter `json:"filter"`
	ID     uint64      `json:"id,omitempty"` // 0: any
	Silent bool        `json:"silent,omitempty"`
}

// Killed is what "nfqfw kill --json" shows.
type Killed struct {
	States int `json:"states"` // how many were killed
}

// WriteText writes what pfctl -k does, which tells how many of up to two words were
// addresses of clients and of servers, if any were.
func (k *Killed) WriteText(w io.Writer, words int) error {
	text := fmt.Sprintf("killed %d states", k.States)
	if words > 0 {
		text += fmt.Sprintf(" from 1 sources and %d destinations", words-1)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// Reloaded is what "nfqfw reload --json" shows.
type Reloaded struct {
	Rules    int      `json:"rules"`    // how many there are now
	Warnings []string `json:"warnings"` // what the file says that has no effect
}
