package offload

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Messages and attributes of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	msgNew    = unix.NFNL_SUBSYS_CTNETLINK << 8   // IPCTNL_MSG_CT_NEW, which is 0
	msgGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	msgDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE

	ctaTupleOrig     = 1  // CTA_TUPLE_ORIG
	ctaTupleReply    = 2  // CTA_TUPLE_REPLY
	ctaStatus        = 3  // CTA_STATUS
	ctaProtoinfo     = 4  // CTA_PROTOINFO
	ctaTimeout       = 7  // CTA_TIMEOUT
	ctaMark          = 8  // CTA_MARK
	ctaCountersOrig  = 9  // CTA_COUNTERS_ORIG
	ctaCountersReply = 10 // CTA_COUNTERS_REPLY
	ctaSeqAdjReply   = 16 // CTA_SEQ_ADJ_REPLY
	ctaTimestamp     = 20 // CTA_TIMESTAMP
	ctaMarkMask      = 21 // CTA_MARK_MASK
	ctaSynproxy      = 24 // CTA_SYNPROXY

	ctaTupleIP      = 1 // CTA_TUPLE_IP
	ctaTupleProto   = 2 // CTA_TUPLE_PROTO
	ctaIPv4Src      = 1 // CTA_IP_V4_SRC
	ctaIPv4Dst      = 2 // CTA_IP_V4_DST
	ctaIPv6Src      = 3 // CTA_IP_V6_SRC
	ctaIPv6Dst      = 4 // CTA_IP_V6_DST
	ctaProtoNum     = 1 // CTA_PROTO_NUM
	ctaProtoSrcPort = 2 // CTA_PROTO_SRC_PORT
	ctaProtoDstPort = 3 // CTA_PROTO_DST_PORT

	ctaProtoinfoTCP = 1 // CTA_PROTOINFO_TCP
	ctaTCPState     = 1 // CTA_PROTOINFO_TCP_STATE
	ctaTCPWSOrig    = 2 // CTA_PROTOINFO_TCP_WSCALE_ORIGINAL
	ctaTCPWSReply   = 3 // CTA_PROTOINFO_TCP_WSCALE_REPLY
	ctaTCPFlagsOrig = 4 // CTA_PROTOINFO_TCP_FLAGS_ORIGINAL
	ctaTCPFlagsRepl = 5 // CTA_PROTOINFO_TCP_FLAGS_REPLY

	ctaCountersPackets = 1 // CTA_COUNTERS_PACKETS
	ctaCountersBytes   = 2 // CTA_COUNTERS_BYTES

	ctaTimestampStart = 1 // CTA_TIMESTAMP_START

	ctaSeqAdjPos    = 1 // CTA_SEQADJ_CORRECTION_POS
	ctaSeqAdjBefore = 2 // CTA_SEQADJ_OFFSET_BEFORE
	ctaSeqAdjAfter  = 3 // CTA_SEQADJ_OFFSET_AFTER

	ctaSynproxyISN   = 1 // CTA_SYNPROXY_ISN
	ctaSynproxyITS   = 2 // CTA_SYNPROXY_ITS
	ctaSynproxyTSOff = 3 // CTA_SYNPROXY_TSOFF

	attrNested = 0x8000 // NLA_F_NESTED
)

// message builds a netlink message in memory that is used again and again.
type message struct{ b []byte }

// begin starts a message. Sequence number and family tell nothing of the rest.
func (m *message) begin(typ, flags uint16, sequence uint32, family uint8) {
	m.b = append(m.b[:0], 0, 0, 0, 0)
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
	m.b = binary.NativeEndian.AppendUint16(m.b, flags|unix.NLM_F_REQUEST)
	m.b = binary.NativeEndian.AppendUint32(m.b, sequence)
	m.b = append(m.b, 0, 0, 0, 0, family, unix.NFNETLINK_V0, 0, 0)
}

// end fills in the length and returns the message.
func (m *message) end() []byte {
	binary.NativeEndian.PutUint32(m.b, uint32(len(m.b)))
	return m.b
}

// nest opens a nested attribute; close it with unnest and what nest returned.
func (m *message) nest(typ uint16) (start int) {
	start = len(m.b)
	m.header(typ|attrNested, 0)
	return start
}

func (m *message) unnest(start int) {
	binary.NativeEndian.PutUint16(m.b[start:], uint16(len(m.b)-start))
}

func (m *message) header(typ uint16, size int) {
	m.b = binary.NativeEndian.AppendUint16(m.b, uint16(unix.SizeofNlAttr+size))
	m.b = binary.NativeEndian.AppendUint16(m.b, typ)
}

func (m *message) uint8(typ uint16, v uint8) {
	m.header(typ, 1)
	m.b = append(m.b, v, 0, 0, 0)
}

func (m *message) uint16(typ, v uint16) {
	m.header(typ, 2)
	m.b = append(m.b, byte(v>>8), byte(v), 0, 0)
}

func (m *message) uint32(typ uint16, v uint32) {
	m.header(typ, 4)
	m.b = binary.BigEndian.AppendUint32(m.b, v)
}

// flags writes a struct nf_ct_tcp_flags.
func (m *message) flags(typ uint16, flags, mask uint8) {
	m.header(typ, 2)
	m.b = append(m.b, flags, mask, 0, 0)
}

// bytes writes an attribute whose length is a multiple of 4.
func (m *message) bytes(typ uint16, v []byte) {
	m.header(typ, len(v))
	m.b = append(m.b, v...)
}
