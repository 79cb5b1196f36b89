package syncookie

import (
	"sync/atomic"
	"time"

	"nfqfw/internal/packet"
)

const (
	// Services is how many services there is room for: a power of two. A new one whose
	// hash is that of another has to wait for its room.
	Services = 1 << ServiceBits
	// Cells is how many counts of sources there are, and of tuples: a power of two. Those with
	// the same hash share one, so that a stranger may be taken for a source that is known.
	Cells = 1 << CellBits

	// ServiceBits and CellBits are the bits of their numbers.
	ServiceBits, CellBits = 10, 19
)

// Rest is for how long, at least, a service was answered for no more before its room is
// another's: a program that has found it may be at it for a moment yet.
const Rest = time.Second

// Memory is what the kernel reads. The program knows its layout. There are as many services,
// and cells, as some power of two.
type Memory struct {
	*Header
	Services []Service
	Cells    []Cell
}

// NewModel is memory that no kernel reads, and that is quickly made.
func NewModel() Memory {
	return Memory{Header: new(Header), Services: make([]Service, 16), Cells: make([]Cell, 64)}
}

// Clear makes memory one in which nothing is, which no kernel may read.
func (m *Memory) Clear() {
	*m.Header = Header{}
	clear(m.Services)
	clear(m.Cells)
}

// Cell counts states that have a hash in common.
type Cell struct {
	Source atomic.Uint32 // of sources whose cell it is, those that limits are about
	Tuple  atomic.Uint32 // of tuples whose cell it is
}

// Header is of the size of a service.
type Header struct {
	Keys  [2][2]atomic.Uint64 // of cookies: the newer one, and one that no new cookie is made with
	Newer atomic.Uint32       // which is which
	Sole  atomic.Uint32       // index of the only interface by which anything can leave this machine; 0: there are more
	Zero  uint64              // what the program reads a 0 from that its verifier takes for any number

	Demands atomic.Uint32 // 1: ACKs without a state are dropped that repeat no cookie
	_       [12]byte
}

// Service is a server's port as clients reach it by one interface, a line of memory. All
// but its atomic fields change only while nobody may be answered for it.
type Service struct {
	Server packet.Addr
	InDev  uint32          // interface index
	Port   packet.WirePort // 0: there is no service
	Has    Has             // of what a client is told, if it has said the same of itself
	WScale uint8           // that it is told
	MSS    uint16          // that it is told
	Room   uint16          // the largest MSS of a client's that is believed
	Few    uint32          // states that limits are about, that a source may have and be answered

	Until    atomic.Uint64 // answered for before that, by CLOCK_MONOTONIC, in ns
	Answered atomic.Uint64 // SYNs
	Unproven atomic.Uint64 // ACKs that were dropped
	_        [8]byte
}

// Has are options of a SYN+ACK that need the client's consent.
type Has uint8

// The options.
const (
	HasSACK Has = 1 << iota
	HasWScale
	HasTimestamp
)
