// Package offload puts connections into the kernel's conntrack table over
// ctnetlink, so that the kernel translates sequence numbers and payload never
// visits user space.
//
// It builds its messages itself. ti-mo/conntrack drops a sequence adjustment of
// which one number is 0 and does not mask the TCP flags, and a library would
// allocate for every handshake; the tests have it read what we wrote.
//
// Invariants: the translation belongs to an entry from its creation on, since
// the kernel ignores it in an update and says nothing. An entry that is in the
// way is replaced, never updated. A request names a tuple always: a deletion
// without one would flush the table.
//
// Refused: zones and NAT. The reply tuple is the original one reversed.
package offload

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// Table is the conntrack table of the network namespace it was opened in. It is
// not safe for concurrent use: each queue has its own.
type Table struct {
	socket *socket
	out    message
}

// Open opens the table of the network namespace of the calling thread. Requests
// need CAP_NET_ADMIN.
func Open() (*Table, error) {
	s, err := openSocket()
	if err != nil {
		return nil, fmt.Errorf("offload: open: %w", err)
	}
	return &Table{socket: s, out: message{b: make([]byte, 0, 512)}}, nil
}

// Close closes the table. Its entries stay.
func (t *Table) Close() error {
	if err := t.socket.close(); err != nil {
		return fmt.Errorf("offload: close: %w", err)
	}
	return nil
}

// Create makes an established entry, with sequence adjustment if o.SeqDiff is
// not 0, and with timestamps translated if o.TSDiff is not 0. An entry of either
// direction that is in the way is deleted first.
//
// The kernel translates timestamps only while there is a SYNPROXY rule in the
// network namespace. While there is one, it gives any RST that the server of an
// entry sends a number that the client does not obey: see TestServerReset.
//
// Its timeout is rounded up to seconds; the first packet sets it anew, to
// nf_conntrack_tcp_timeout_established. The error wraps the kernel's, ENOMEM
// if the table is full.
func (t *Table) Create(o *packet.Offload) error {
	err := t.create(o)
	if err == unix.EEXIST {
		if err = errors.Join(t.Delete(o.Tuple), t.Delete(o.Tuple.Reverse())); err == nil {
			err = t.create(o)
		}
	}
	if err != nil {
		return fmt.Errorf("offload: create %v: %w", o.Tuple, err)
	}
	return nil
}

// Status bits of enum ip_conntrack_status.
const (
	statusSeenReply = 1 << 1 // IPS_SEEN_REPLY
	statusAssured   = 1 << 2 // IPS_ASSURED
	statusConfirmed = 1 << 3 // IPS_CONFIRMED
	statusSeqAdjust = 1 << 6 // IPS_SEQ_ADJUST
)

func (t *Table) create(o *packet.Offload) error {
	m := &t.out
	m.begin(msgNew, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, t.socket.next(), family(&o.Tuple))
	reply := o.Tuple.Reverse()
	m.tuple(ctaTupleOrig, &o.Tuple)
	m.tuple(ctaTupleReply, &reply)
	status := uint32(statusConfirmed | statusSeenReply | statusAssured)
	if o.SeqDiff != 0 {
		status |= statusSeqAdjust
	}
	m.uint32(ctaStatus, status)
	m.uint32(ctaTimeout, seconds(o.Timeout))
	m.uint32(ctaMark, uint32(o.Mark))
	m.uint32(ctaMarkMask, uint32(packet.MarkMask))
	m.protoinfo(o)
	if o.SeqDiff != 0 {
		m.seqAdjust(o)
	}
	if o.TSDiff != 0 {
		m.synproxy(o.ServerISN.Add(o.SeqDiff), o.TSDiff)
	}
	_, err := t.socket.exchange(m.end())
	return err
}

// seconds rounds up, to 1 at least: 0 would expire at once.
func seconds(d time.Duration) uint32 {
	const maxTimeout = 1<<31 - 1
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return uint32(min(max(n, 1), maxTimeout))
}

// family is the address family of a tuple.
func family(t *packet.Tuple) uint8 {
	if t.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// tuple writes a tuple of TCP.
func (m *message) tuple(typ uint16, t *packet.Tuple) {
	outer := m.nest(typ)
	inner := m.nest(ctaTupleIP)
	if t.Is4() {
		m.bytes(ctaIPv4Src, t.Src[12:])
		m.bytes(ctaIPv4Dst, t.Dst[12:])
	} else {
		m.bytes(ctaIPv6Src, t.Src[:])
		m.bytes(ctaIPv6Dst, t.Dst[:])
	}
	m.unnest(inner)
	inner = m.nest(ctaTupleProto)
	m.uint8(ctaProtoNum, unix.IPPROTO_TCP)
	m.uint16(ctaProtoSrcPort, t.SrcPort)
	m.uint16(ctaProtoDstPort, t.DstPort)
	m.unnest(inner)
	m.unnest(outer)
}

// Flags of include/uapi/linux/netfilter/nf_conntrack_tcp.h.
const (
	flagWindowScale = 0x01 // IP_CT_TCP_FLAG_WINDOW_SCALE
	flagSACKPerm    = 0x02 // IP_CT_TCP_FLAG_SACK_PERM
	flagBeLiberal   = 0x08 // IP_CT_TCP_FLAG_BE_LIBERAL
)

// protoinfo writes the TCP state. Window checking stays strict: the mask turns
// BE_LIBERAL off, and without the WINDOW_SCALE flags of both directions the
// kernel would not take the shifts.
func (m *message) protoinfo(o *packet.Offload) {
	const mask = flagWindowScale | flagSACKPerm | flagBeLiberal
	var flags uint8
	if o.HasWScale {
		flags |= flagWindowScale
	}
	if o.SACKPermitted {
		flags |= flagSACKPerm
	}
	outer := m.nest(ctaProtoinfo)
	inner := m.nest(ctaProtoinfoTCP)
	m.uint8(ctaTCPState, uint8(Established))
	if o.HasWScale {
		m.uint8(ctaTCPWSOrig, o.SrcWScale)
		m.uint8(ctaTCPWSReply, o.DstWScale)
	}
	m.flags(ctaTCPFlagsOrig, flags, mask)
	m.flags(ctaTCPFlagsRepl, flags, mask)
	m.unnest(inner)
	m.unnest(outer)
}

// seqAdjust has the kernel add SeqDiff to the server's sequence numbers, on
// either side of the position alike.
func (m *message) seqAdjust(o *packet.Offload) {
	outer := m.nest(ctaSeqAdjReply)
	m.uint32(ctaSeqAdjPos, uint32(o.ServerISN))
	m.uint32(ctaSeqAdjBefore, uint32(o.SeqDiff))
	m.uint32(ctaSeqAdjAfter, uint32(o.SeqDiff))
	m.unnest(outer)
}

// synproxy has the kernel add tsDiff to the server's timestamps, and take it off
// again where the client echoes them (nf_synproxy_core.c: synproxy_tstamp_adjust,
// whose offset has the opposite sign). The initial timestamp is for handshakes
// that the kernel makes itself.
func (m *message) synproxy(isn seqnum.Value, tsDiff uint32) {
	outer := m.nest(ctaSynproxy)
	m.uint32(ctaSynproxyISN, uint32(isn))
	m.uint32(ctaSynproxyITS, 0)
	m.uint32(ctaSynproxyTSOff, -tsDiff)
	m.unnest(outer)
}

// SetMark gives our bits of the connmark of an entry these values. The error wraps
// unix.ENOENT if there is no entry.
func (t *Table) SetMark(tuple packet.Tuple, mark packet.Mark) error {
	t.out.begin(msgNew, unix.NLM_F_ACK, t.socket.next(), family(&tuple))
	t.out.tuple(ctaTupleOrig, &tuple)
	t.out.uint32(ctaMark, uint32(mark))
	t.out.uint32(ctaMarkMask, uint32(packet.MarkMask))
	if _, err := t.socket.exchange(t.out.end()); err != nil {
		return fmt.Errorf("offload: mark %v: %w", tuple, err)
	}
	return nil
}

// Delete removes the entry of a tuple of either direction. That there is none
// is no error.
func (t *Table) Delete(tuple packet.Tuple) error {
	t.out.begin(msgDelete, unix.NLM_F_ACK, t.socket.next(), family(&tuple))
	t.out.tuple(ctaTupleOrig, &tuple)
	if _, err := t.socket.exchange(t.out.end()); err != nil && err != unix.ENOENT {
		return fmt.Errorf("offload: delete %v: %w", tuple, err)
	}
	return nil
}
