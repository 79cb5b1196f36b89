package grant

import (
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
)

// Slots is how many grants there is room for: a power of two.
const Slots = 1 << 12

// Grace is for how long, at least, no SYN is granted whose tuple a FIN has used: its
// connection may be closing, and the engine is to know before another begins. The kernel
// forgets a FIN sooner if others have its place.
const Grace = 4 * time.Second

// Slot is the room of one grant, a line of memory. The program in the kernel knows its
// layout (internal/bpf), and so may another process that goes on with the same memory.
type Slot struct {
	Client, Server packet.Addr
	Port           [2]byte // the server's, as a header has it
	_              [2]byte
	InDev          uint32       // interface index that the client's packets come in by; never 0
	ReplyDev       uint32       // that which the server's come in by; 0: this machine is the server
	Left           atomic.Int32 // how many SYNs may pass yet; below 1: none, but SYN+ACKs may

	// Of the first slot only, for all:
	Seed   uint64        // of the hash
	Missed atomic.Uint32 // packets that were not recorded, for want of room or of a plain header
	_      [4]byte
}

// fits says whether the grant is for this client and server.
func (s *Slot) fits(client, server *packet.Addr, port [2]byte) bool {
	return s.Port == port && s.Client == *client && s.Server == *server
}
