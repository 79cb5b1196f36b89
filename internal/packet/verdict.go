package packet

// Verdict is what happens to a queued packet.
type Verdict uint8

// The verdicts, mapped to NF_DROP and NF_ACCEPT by internal/nfq alone.
const (
	Drop Verdict = iota
	Pass
)

// String is pf's word for it.
func (v Verdict) String() string {
	if v == Pass {
		return "pass"
	}
	return "drop"
}

// Mark values steer the hooks (internal/hooks). They live in the bits of
// MarkMask, of the packet mark and of the connmark; the other bits are the
// user's.
type Mark uint32

// MarkMask covers the bits of a mark that are ours.
const MarkMask Mark = 0xf0000000

// Marks that a verdict sets, but for MarkClosing. A later hook saves MarkTrack,
// MarkOpening and MarkClear to the connmark, and what is joined to them: so the kernel
// remembers for the next daemon which side has closed. It knows them by MarkSaved.
const (
	MarkOwn     Mark = 0x10000000 // a segment we injected: never queued, not tracked
	MarkTrack   Mark = 0x20000000 // queue what follows in this connection
	MarkOpening Mark = 0x30000000 // queue what follows in this connection: it is not admitted yet
	MarkClear   Mark = 0x40000000 // queue only RST of this connection, and copy FIN
	MarkClosing Mark = 0x60000000 // as MarkClear, and copy what follows: the hooks set it at a FIN, in the connmark only
	MarkTracked Mark = 0x60000000 // a segment we injected: never queued, but the kernel's entry is to know it
	MarkSeen    Mark = 0x70000000 // judged in the raw table: do not queue this packet again

	// MarkServerClosed is joined to MarkTrack, MarkClear or MarkClosing when the server
	// has sent its FIN, and MarkClientClosed to the latter two when the client has.
	MarkServerClosed Mark = 0x80000000
	MarkClientClosed Mark = 0x10000000
)

// MarkSaved covers two bits, of which each mark that is saved has one, and no other mark
// has just one.
const MarkSaved = MarkTrack | MarkClear

// MarkSteer covers the bits that tell MarkTrack, MarkOpening and MarkClear apart, with
// MarkServerClosed or without.
const MarkSteer = MarkMask &^ MarkServerClosed

// The connections whose closing is copied, and not queued, have the bit of MarkClear.
const (
	MarkCopied = MarkClear                           // covers what MarkClear and MarkClosing share, and no other mark that steers
	MarkCopies = MarkClosing                         // covers what tells the two apart
	MarkClosed = MarkServerClosed | MarkClientClosed // covers who has closed
)

// MarkGranted is set by the hooks in the raw table, on a SYN or SYN+ACK that passes without
// having been judged (internal/grant). It goes in the mangle table.
const MarkGranted Mark = 0x80000000

// Marks that the hooks set before a packet is queued, to tell its Conn.
const (
	MarkConnNew     Mark = 0x80000000
	MarkConnInvalid Mark = 0x90000000
	MarkConnOpening Mark = 0xe0000000
	MarkConnOlder   Mark = 0xb0000000 // a SYN that was granted belongs to an entry that was there before
)

// ConnOf reads what the hooks said of a packet; raw tells that it came from
// the raw table, where conntrack has not looked yet.
func ConnOf(m Mark, raw bool) Conn {
	switch m & MarkMask {
	case MarkConnNew:
		return ConnNew
	case MarkConnInvalid:
		return ConnInvalid
	case MarkConnOpening:
		return ConnOpening
	case MarkConnOlder:
		return ConnEstablished
	}
	if raw {
		return ConnNone
	}
	return ConnEstablished
}
