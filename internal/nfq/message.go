package nfq

import (
	"encoding/binary"
	"math"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
)

// Message is a queued packet, and the answer to it.
type Message struct {
	ID      uint32      // the kernel's number of the packet in this queue
	Payload []byte      // the packet from its IP header on, as far as captured; valid until Flush returns
	Total   int         // octets of the whole packet
	Mark    packet.Mark // the packet mark, the user's bits included
	InDev   uint32      // interface index, 0: none

	GSO                 bool // a super-packet, not yet cut into segments
	ChecksumNotReady    bool // the checksum is not filled in yet: the packet is from this machine, or the device will
	ChecksumNotVerified bool // nobody has checked the checksum

	verdict packet.Verdict
	mark    packet.Mark
}

// Answer sets the verdict. A passed packet goes on with the bits of
// packet.MarkMask replaced by those of mark, and its other mark bits as they
// were. A message that is not answered is dropped; the last answer counts.
func (m *Message) Answer(v packet.Verdict, mark packet.Mark) { m.verdict, m.mark = v, mark }

// newMark is the packet mark after the verdict.
func (m *Message) newMark() packet.Mark { return m.Mark&^packet.MarkMask | m.mark&packet.MarkMask }

// Message and attribute types of include/uapi/linux/netfilter/nfnetlink_queue.h.
const (
	msgPacket   = unix.NFNL_SUBSYS_QUEUE << 8   // NFQNL_MSG_PACKET, which is 0
	msgVerdict  = unix.NFNL_SUBSYS_QUEUE<<8 | 1 // NFQNL_MSG_VERDICT
	msgConfig   = unix.NFNL_SUBSYS_QUEUE<<8 | 2 // NFQNL_MSG_CONFIG
	msgVerdicts = unix.NFNL_SUBSYS_QUEUE<<8 | 3 // NFQNL_MSG_VERDICT_BATCH: of all packets up to this one

	attrPacketHdr  = 1  // NFQA_PACKET_HDR
	attrVerdictHdr = 2  // NFQA_VERDICT_HDR
	attrMark       = 3  // NFQA_MARK
	attrInDev      = 5  // NFQA_IFINDEX_INDEV
	attrPayload    = 10 // NFQA_PAYLOAD
	attrCapLen     = 13 // NFQA_CAP_LEN
	attrSkbInfo    = 14 // NFQA_SKB_INFO

	attrConfigParams = 2 // NFQA_CFG_PARAMS
	copyPacket       = 2 // NFQNL_COPY_PACKET

	skbCsumNotReady    = 1 << 0 // NFQA_SKB_CSUMNOTREADY
	skbGSO             = 1 << 1 // NFQA_SKB_GSO
	skbCsumNotVerified = 1 << 2 // NFQA_SKB_CSUM_NOTVERIFIED
)

// Those of include/uapi/linux/netfilter/nfnetlink_log.h.
const (
	msgLogPacket = unix.NFNL_SUBSYS_ULOG << 8   // NFULNL_MSG_PACKET, which is 0
	msgLogConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG

	attrLogInDev   = 4 // NFULA_IFINDEX_INDEV
	attrLogPayload = 9 // NFULA_PAYLOAD

	attrLogCommand   = 1 // NFULA_CFG_CMD
	attrLogMode      = 2 // NFULA_CFG_MODE
	attrLogThreshold = 5 // NFULA_CFG_QTHRESH
	logBind          = 1 // NFULNL_CFG_CMD_BIND
	logCopyPacket    = 2 // NFULNL_COPY_PACKET
)

// parse reads the body of a packet message. Any attribute can be missing;
// without a packet header there is nothing to answer, and ok is false.
func (m *Message) parse(body []byte) (ok bool) {
	*m = Message{}
	if len(body) < nfnetlink.HeaderLen {
		return false
	}
	capLen := 0
	for typ, value, rest, more := nfnetlink.NextAttr(body[nfnetlink.HeaderLen:]); more; typ, value, rest, more = nfnetlink.NextAttr(rest) {
		switch {
		case typ == attrPacketHdr && len(value) >= 7:
			m.ID, ok = binary.BigEndian.Uint32(value), true
		case typ == attrPayload:
			m.Payload = value
		case len(value) == 4:
			m.setNumber(typ, binary.BigEndian.Uint32(value), &capLen)
		}
	}
	m.Total = max(capLen, len(m.Payload))
	return ok
}

// parseLog reads the body of a message about a copy, and says whether it shows a packet.
func (m *Message) parseLog(body []byte) bool {
	*m = Message{Total: math.MaxInt32} // the kernel does not say
	if len(body) < nfnetlink.HeaderLen {
		return false
	}
	for typ, value, rest, more := nfnetlink.NextAttr(body[nfnetlink.HeaderLen:]); more; typ, value, rest, more = nfnetlink.NextAttr(rest) {
		switch {
		case typ == attrLogPayload:
			m.Payload = value
		case typ == attrLogInDev && len(value) == 4:
			m.InDev = binary.BigEndian.Uint32(value)
		}
	}
	return m.Payload != nil
}

// setNumber takes an attribute that is a number.
func (m *Message) setNumber(typ uint16, v uint32, capLen *int) {
	switch typ {
	case attrMark:
		m.Mark = packet.Mark(v)
	case attrInDev:
		m.InDev = v
	case attrCapLen:
		*capLen = int(v)
	case attrSkbInfo:
		m.GSO = v&skbGSO != 0
		m.ChecksumNotReady = v&skbCsumNotReady != 0
		m.ChecksumNotVerified = v&skbCsumNotVerified != 0
	}
}

// verdictLen is the most octets that appendVerdict adds.
const verdictLen = unix.NLMSG_HDRLEN + nfnetlink.HeaderLen + 12 + 8

// appendVerdicts adds the verdict messages for packets in the order in which the kernel
// has queued them, and says how many pass. Of a flood nearly all are dropped: one message
// is for all that are in a row.
func appendVerdicts(b []byte, queue uint16, batch []Message) (_ []byte, passed int) {
	row := 0
	for i := range batch {
		m := &batch[i]
		if m.verdict == packet.Pass {
			passed++
			b = appendVerdict(b, msgVerdict, queue, m)
			row = 0
			continue
		}
		row++
		switch last := i+1 == len(batch) || batch[i+1].verdict == packet.Pass; {
		case last && row > 1:
			b = appendVerdict(b, msgVerdicts, queue, m)
		case last:
			b = appendVerdict(b, msgVerdict, queue, m)
		}
	}
	return b, passed
}

// appendVerdict adds a verdict message with the answer to m. The mark is set only where it
// changes.
func appendVerdict(b []byte, typ, queue uint16, m *Message) []byte {
	start := len(b)
	b = appendHeader(b, typ, queue)
	b = appendAttr(b, attrVerdictHdr, 8)
	b = binary.BigEndian.AppendUint32(b, netfilterVerdict(m.verdict))
	b = binary.BigEndian.AppendUint32(b, m.ID)
	if mark := m.newMark(); m.verdict == packet.Pass && mark != m.Mark {
		b = appendAttr(b, attrMark, 4)
		b = binary.BigEndian.AppendUint32(b, uint32(mark))
	}
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// netfilterVerdict is the kernel's number for a verdict.
func netfilterVerdict(v packet.Verdict) uint32 {
	const nfDrop, nfAccept = 0, 1
	if v == packet.Pass {
		return nfAccept
	}
	return nfDrop
}

// appendHeader adds the headers of a message whose length the caller fills in.
func appendHeader(b []byte, typ, queue uint16) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port: not asked for an answer
	b = append(b, unix.AF_UNSPEC, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, queue)
}

// appendAttr adds the header of an attribute whose value has size octets.
func appendAttr(b []byte, typ uint16, size int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+size))
	return binary.NativeEndian.AppendUint16(b, typ)
}

// appendCopyPacket adds the message that has the kernel send us packets, up to
// copyRange octets of each.
func appendCopyPacket(b []byte, queue uint16, copyRange uint32) []byte {
	start := len(b)
	b = appendHeader(b, msgConfig, queue)
	b = appendAttr(b, attrConfigParams, 5)
	b = binary.BigEndian.AppendUint32(b, copyRange)
	b = append(b, copyPacket, 0, 0, 0) // padded
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendNothing adds a message that asks the kernel for its acknowledgment, and for
// nothing else.
func appendNothing(b []byte) []byte {
	start := len(b)
	b = appendHeader(b, unix.NLMSG_NOOP, 0)
	binary.NativeEndian.PutUint16(b[start+6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// appendLogConfig adds the message that binds a group of NFLOG and has the kernel send
// us, and not collect, up to copyRange octets of each packet. It asks for an answer.
func appendLogConfig(b []byte, group uint16, copyRange uint32) []byte {
	start := len(b)
	b = appendHeader(b, msgLogConfig, group)
	binary.NativeEndian.PutUint16(b[start+6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(appendAttr(b, attrLogCommand, 1), logBind, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(appendAttr(b, attrLogMode, 6), copyRange)
	b = append(b, logCopyPacket, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(appendAttr(b, attrLogThreshold, 4), 1)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}
