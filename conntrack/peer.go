package conntrack

import (
	"maps"
	"slices"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// PeerState is the TCP state of one side of a connection, by pf's numbers and
// names. pf's tracker never sets LISTEN, SYN_RCVD, CLOSE_WAIT, FIN_WAIT_1 or
// LAST_ACK, and neither does this one. What each means here:
//
//	CLOSED       nothing seen from this peer
//	SYN_SENT     it has sent a SYN that is not acknowledged
//	ESTABLISHED  its SYN is acknowledged, and it has sent no FIN
//	CLOSING      it has sent a FIN that is not acknowledged
//	FIN_WAIT_2   its FIN is acknowledged
//	TIME_WAIT    a RST was seen, from either side; always both peers'
//	PROXY:SRC    the SYN proxy waits for the client (the source peer's only)
//	PROXY:DST    the SYN proxy waits for the server (the source peer's only)
type PeerState uint8

// The states, by pf's numbers.
const (
	Closed      PeerState = 0
	SynSent     PeerState = 2
	Established PeerState = 4
	Closing     PeerState = 7
	FinWait2    PeerState = 9
	TimeWait    PeerState = 10
	ProxySrc    PeerState = 11
	ProxyDst    PeerState = 12
)

var peerStateNames = map[PeerState]string{
	Closed: "CLOSED", SynSent: "SYN_SENT", Established: "ESTABLISHED", Closing: "CLOSING",
	FinWait2: "FIN_WAIT_2", TimeWait: "TIME_WAIT", ProxySrc: "PROXY:SRC", ProxyDst: "PROXY:DST",
}

// String is pf's name.
func (s PeerState) String() string {
	if n, ok := peerStateNames[s]; ok {
		return n
	}
	return "BAD"
}

// PeerStates are all states, by their numbers.
func PeerStates() []PeerState { return slices.Sorted(maps.Keys(peerStateNames)) }

// proxied says whether the SYN proxy is still shaking hands.
func (s PeerState) proxied() bool { return s == ProxySrc || s == ProxyDst }

// Peer is what is known of one side. Its numbers are those this side itself
// uses: the server's are not shifted by the proxy's offset.
//
// Payload does not visit user space, so after the handshake the numbers are
// those of the last packet that did.
type Peer struct {
	State     PeerState
	WScale    uint8 // window shift; meaningful if HasWScale
	HasWScale bool
	Seen      bool         // a packet of this peer's was seen: the numbers mean something
	SeqLo     seqnum.Value // end of the highest segment seen from it; its FIN's end once it has sent one
	SeqHi     seqnum.Value // first number the other side has not allowed it to send
	MaxWin    uint32       // largest window it advertised, as in the header
}

// next is pf's transition for a packet that fits its state: p is the sender's
// state, o the other's; ackSYN and ackFIN say that the packet acknowledges what
// the other has outstanding (pf does not look; a stale ACK would promote).
func next(p, o PeerState, flags packet.Flags, ackSYN, ackFIN bool) (PeerState, PeerState) {
	if flags.Has(packet.SYN) && p < SynSent {
		p = SynSent
	}
	if flags.Has(packet.FIN) && p < Closing {
		p = Closing
	}
	if flags.Has(packet.ACK) {
		switch {
		case o == SynSent && ackSYN:
			o = Established
		case o == Closing && ackFIN:
			o = FinWait2
		}
	}
	if flags.Has(packet.RST) {
		return TimeWait, TimeWait
	}
	return p, o
}

// timeoutClass is the class two peers' states have, in pf's order of tests.
func timeoutClass(src, dst PeerState) Timeout {
	lower, upper := min(src, dst), max(src, dst)
	switch {
	case src.proxied():
		return TCPFirst
	case lower >= FinWait2:
		return TCPClosed
	case lower >= Closing:
		return TCPFinWait
	case lower < Established:
		return TCPOpening
	case upper >= Closing:
		return TCPClosing
	}
	return TCPEstablished
}
