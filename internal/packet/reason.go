package packet

// Reason says why a packet was not passed. Each dropped packet has one.
type Reason uint8

// The reasons. Those up to ReasonSynproxy are pf's, by pf's names.
const (
	ReasonMatch          Reason = iota // passed: no reason to drop
	ReasonBadOffset                    // TCP data offset under 5 words or past the packet
	ReasonFragment                     // a fragment: the kernel should have reassembled it
	ReasonShort                        // shorter than its headers say
	ReasonNormalize                    // flags no TCP sends: SYN+FIN, SYN+RST, none at all
	ReasonMemory                       // limits.states is reached
	ReasonIPOption                     // an IPv6 extension chain or IP option that cannot be walked
	ReasonProtoCksum                   // wrong TCP checksum
	ReasonTCPOption                    // a TCP option runs past the header or has an impossible length
	ReasonStateMismatch                // fits no state, or does not fit its state
	ReasonSrcLimit                     // limits.src_nodes is reached
	ReasonSynproxy                     // swallowed by the SYN proxy: part of its handshakes
	ReasonMaxSrcConn                   // the source has max_src_conn connections
	ReasonMaxSrcConnRate               // the source has connected as often as max_src_conn_rate allows
	ReasonMaxSrcStates                 // the source has max_src_states states
	ReasonMaxSrcNodes                  // the rule has max_src_nodes sources
	ReasonMax                          // the rule has max states
	ReasonBlock                        // a block rule
	ReasonDuplicate                    // replaced by a segment of our own
	ReasonNotTCP                       // not a TCP packet: the hooks never queue one
	reasonCount
)

// ReasonCount is the number of reasons, for arrays indexed by Reason.
const ReasonCount = int(reasonCount)

var reasonNames = [ReasonCount]string{
	ReasonMatch: "match", ReasonBadOffset: "bad-offset", ReasonFragment: "fragment", ReasonShort: "short",
	ReasonNormalize: "normalize", ReasonMemory: "memory", ReasonIPOption: "ip-option",
	ReasonProtoCksum: "proto-cksum", ReasonTCPOption: "tcp-option", ReasonStateMismatch: "state-mismatch",
	ReasonSrcLimit: "src-limit", ReasonSynproxy: "synproxy", ReasonMaxSrcConn: "max-src-conn",
	ReasonMaxSrcConnRate: "max-src-conn-rate", ReasonMaxSrcStates: "max-src-states",
	ReasonMaxSrcNodes: "max-src-nodes", ReasonMax: "max", ReasonBlock: "block", ReasonDuplicate: "duplicate", ReasonNotTCP: "not-tcp",
}

// String is the name an operator sees in counters and logs.
func (r Reason) String() string {
	if int(r) < ReasonCount {
		return reasonNames[r]
	}
	return "unknown"
}
