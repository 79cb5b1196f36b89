package packet

import (
	"time"

	"nfqfw/internal/seqnum"
)

// OffloadOp is what to do with the kernel's entry of a connection.
type OffloadOp uint8

// The orders.
const (
	OffloadNone   OffloadOp = iota
	OffloadCreate           // make an established entry
	OffloadDelete           // remove the entry
	OffloadMark             // give it the mark
	OffloadQuery            // look the entry up, put the answer into Packet.Kernel, ask the engine again
)

// Offload is an order for the kernel's conntrack table.
type Offload struct {
	Op    OffloadOp
	Tuple Tuple // original direction: client to server

	// For OffloadCreate:
	Join          bool          // the connection's first entry: without it there is no connection
	Timeout       time.Duration // of the entry
	SeqDiff       seqnum.Size   // what the kernel adds to the server's sequence numbers; 0: nothing to translate
	TSDiff        uint32        // what the kernel adds to the server's timestamps on their way to the client; 0: nothing to translate
	ServerISN     seqnum.Value  // from which number on it does
	SrcWScale     uint8         // the client's window shift
	DstWScale     uint8         // the server's window shift
	HasWScale     bool          // both sides scale windows
	SACKPermitted bool          // both sides agreed on selective acknowledgments
	Mark          Mark          // which of the next packets to queue; for OffloadMark too
}
