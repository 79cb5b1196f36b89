// Package route asks the kernel by which interface an address is reached, in the
// network namespace of the calling thread.
//
// It tells where a host is expected to be; a host may send from elsewhere. It changes
// no route.
package route

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Via is where an address is.
type Via struct {
	Device uint32 // index of the interface by which it is reached; 0 if it is this machine's own
	Local  bool   // it is this machine's own
}

// Table answers about addresses, and remembers what it has said. It is not safe for
// concurrent use.
type Table struct{ known map[netip.Addr]Via }

// New makes a table that knows nothing yet.
func New() *Table { return &Table{known: make(map[netip.Addr]Via)} }

// maxKnown bounds what is remembered.
const maxKnown = 100_000

// To is where an address is, or an error if there is no route to it.
func (t *Table) To(a netip.Addr) (Via, error) {
	if v, ok := t.known[a]; ok {
		return v, nil
	}
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return Via{}, fmt.Errorf("route to %v: %w", a, err)
	}
	v := Via{Device: uint32(routes[0].LinkIndex)}
	if routes[0].Type == unix.RTN_LOCAL {
		v = Via{Local: true}
	}
	if len(t.known) < maxKnown {
		t.known[a] = v
	}
	return v, nil
}
