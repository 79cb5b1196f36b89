package offload

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// TCPState is the kernel's state of a connection: enum tcp_conntrack.
type TCPState uint8

// The states, as conntrack(8) prints them.
const (
	None        TCPState = iota // TCP_CONNTRACK_NONE
	SynSent                     // TCP_CONNTRACK_SYN_SENT
	SynRecv                     // TCP_CONNTRACK_SYN_RECV
	Established                 // TCP_CONNTRACK_ESTABLISHED
	FinWait                     // TCP_CONNTRACK_FIN_WAIT
	CloseWait                   // TCP_CONNTRACK_CLOSE_WAIT
	LastAck                     // TCP_CONNTRACK_LAST_ACK
	TimeWait                    // TCP_CONNTRACK_TIME_WAIT
	Close                       // TCP_CONNTRACK_CLOSE
	SynSent2                    // TCP_CONNTRACK_SYN_SENT2
)

var stateNames = [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"}

// String is the name that conntrack(8) prints.
func (s TCPState) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// Traffic is what an entry counted in one direction.
type Traffic struct{ Packets, Octets uint64 }

// Entry is what the kernel knows of a connection.
type Entry struct {
	State    TCPState
	Timeout  time.Duration // until the entry goes, if nothing comes; whole seconds
	Original Traffic       // from the client; meaningful if HasTraffic
	Reply    Traffic       // from the server; meaningful if HasTraffic
	// HasTraffic says whether the entry counts. One that was made while
	// accounting was off never does.
	HasTraffic bool
	// Reverse says that the tuple which was asked for is that of the reply, by the
	// kernel's lights: it took the connection up in the middle.
	Reverse bool

	Mark packet.Mark   // the connmark, with the bits that are the user's
	Age  time.Duration // 0: not known, as for one made while the kernel took no timestamps

	// What Create has told, as far as the kernel tells it again.
	SeqDiff              seqnum.Size
	ServerISN            seqnum.Value // 0 without a SeqDiff
	TSDiff               uint32
	SrcWScale, DstWScale uint8
	HasWScale            bool
	SACKPermitted        bool
}

// Query asks for the entry of a tuple of either direction. The Entry is
// meaningful unless the answer is packet.KernelAbsent.
func (t *Table) Query(tuple packet.Tuple) (packet.Kernel, Entry, error) {
	t.out.begin(msgGet, 0, t.socket.next(), family(&tuple))
	t.out.tuple(ctaTupleOrig, &tuple)
	body, err := t.socket.exchange(t.out.end())
	if err == unix.ENOENT {
		return packet.KernelAbsent, Entry{}, nil
	}
	if err != nil {
		return packet.KernelNotAsked, Entry{}, fmt.Errorf("offload: query %v: %w", tuple, err)
	}
	var e Entry
	e.parse(body)
	original, ok := parseTuple(body)
	e.Reverse = ok && original != tuple
	return e.State.kernel(), e, nil
}

// kernel is what a state of TCP shows of FINs and RSTs.
func (s TCPState) kernel() packet.Kernel {
	switch s {
	case FinWait, CloseWait:
		return packet.KernelClosing
	case LastAck, TimeWait:
		return packet.KernelClosed
	case Close:
		return packet.KernelReset
	}
	return packet.KernelPresent
}

// parse reads the body of an IPCTNL_MSG_CT_NEW.
func (e *Entry) parse(body []byte) {
	if len(body) < nfnetlink.HeaderLen {
		return
	}
	for typ, value, rest, ok := nfnetlink.NextAttr(body[nfnetlink.HeaderLen:]); ok; typ, value, rest, ok = nfnetlink.NextAttr(rest) {
		switch typ {
		case ctaTimeout:
			e.Timeout = time.Duration(number(value)) * time.Second
		case ctaMark:
			e.Mark = packet.Mark(number(value))
		case ctaTimestamp:
			e.Age = age(number(find(value, ctaTimestampStart)))
		case ctaProtoinfo:
			e.parseTCP(find(value, ctaProtoinfoTCP))
		case ctaSeqAdjReply:
			e.ServerISN = seqnum.Value(number(find(value, ctaSeqAdjPos)))
			e.SeqDiff = seqnum.Size(number(find(value, ctaSeqAdjAfter)))
		case ctaSynproxy:
			e.TSDiff = -uint32(number(find(value, ctaSynproxyTSOff)))
		case ctaCountersOrig:
			e.Original, e.HasTraffic = traffic(value), true
		case ctaCountersReply:
			e.Reply, e.HasTraffic = traffic(value), true
		}
	}
}

// parseTCP reads a CTA_PROTOINFO_TCP.
func (e *Entry) parseTCP(b []byte) {
	octet := func(typ uint16) uint8 {
		if v := find(b, typ); len(v) > 0 {
			return v[0]
		}
		return 0
	}
	e.State = TCPState(octet(ctaTCPState))
	flags := octet(ctaTCPFlagsOrig) & octet(ctaTCPFlagsRepl)
	e.HasWScale, e.SACKPermitted = flags&flagWindowScale != 0, flags&flagSACKPerm != 0
	if e.HasWScale {
		e.SrcWScale, e.DstWScale = octet(ctaTCPWSOrig), octet(ctaTCPWSReply)
	}
}

// age is how long ago a time in nanoseconds since 1970 was; 0 is not known.
func age(start uint64) time.Duration {
	if start == 0 {
		return 0
	}
	return max(time.Since(time.Unix(0, int64(start))), 0)
}

// number reads a number of 32 or 64 bits, 0 if it is neither.
func number(b []byte) uint64 {
	switch len(b) {
	case 4:
		return uint64(binary.BigEndian.Uint32(b))
	case 8:
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// find is the value of the first attribute of a type, or nil.
func find(b []byte, want uint16) []byte {
	for typ, value, rest, ok := nfnetlink.NextAttr(b); ok; typ, value, rest, ok = nfnetlink.NextAttr(rest) {
		if typ == want {
			return value
		}
	}
	return nil
}

func traffic(b []byte) Traffic {
	return Traffic{Packets: number(find(b, ctaCountersPackets)), Octets: number(find(b, ctaCountersBytes))}
}
