// Package nfnetlink reads what netlink messages of netfilter are made of: messages one
// after the other, and attributes one after the other (include/uapi/linux/netlink.h and
// netfilter/nfnetlink.h). What they mean is for internal/nfq and internal/offload to say.
//
// It allocates nothing, and keeps nothing: what it returns is part of what it was given.
// A length that lies ends the reading, and nothing is read beyond what is there.
package nfnetlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// HeaderLen is how many octets come before the attributes in the body of a message of
// netfilter's: struct nfgenmsg.
const HeaderLen = 4

const attrTypeMask = 0x3fff // NLA_TYPE_MASK

// Align rounds a length up to the 4 octets of netlink.
func Align(n int) int { return (n + 3) &^ 3 }

// Message is a netlink message.
type Message struct {
	Type     uint16
	Sequence uint32 // of the request that it answers
	Body     []byte // what follows the header
}

// Next cuts the first message off b. ok is false at the end, and at a length that lies.
func Next(b []byte) (m Message, rest []byte, ok bool) {
	if len(b) < unix.NLMSG_HDRLEN {
		return Message{}, nil, false
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < unix.NLMSG_HDRLEN || n > len(b) {
		return Message{}, nil, false
	}
	m = Message{Type: binary.NativeEndian.Uint16(b[4:]), Sequence: binary.NativeEndian.Uint32(b[8:]), Body: b[unix.NLMSG_HDRLEN:n]}
	return m, b[min(Align(n), len(b)):], true
}

// NextAttr cuts the first attribute off b. ok is false at the end, and at a length that
// lies, or that a buffer too short has cut off.
func NextAttr(b []byte) (typ uint16, value, rest []byte, ok bool) {
	if len(b) < unix.SizeofNlAttr {
		return 0, nil, nil, false
	}
	n := int(binary.NativeEndian.Uint16(b))
	if n < unix.SizeofNlAttr || n > len(b) {
		return 0, nil, nil, false
	}
	return binary.NativeEndian.Uint16(b[2:]) & attrTypeMask, b[unix.SizeofNlAttr:n], b[min(Align(n), len(b)):], true
}

// Errno is the unix.Errno that the body of a message of type NLMSG_DONE or NLMSG_ERROR
// begins with; nil for an acknowledgment.
func Errno(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if n := -int32(binary.NativeEndian.Uint32(body)); n != 0 {
		return unix.Errno(n)
	}
	return nil
}
