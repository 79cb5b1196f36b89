// Package backlog asks the kernel how full the queues of listening TCP sockets
// are: those connections wait in whose handshake is done and that the server has
// not accepted yet.
package backlog

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Listener is a listening socket. With SO_REUSEPORT several have one address, and
// each a queue of its own.
type Listener struct {
	Addr    netip.AddrPort // its address is unspecified if it listens on all
	V6Only  bool           // of IPv6: it does not serve IPv4 as well, as [::] otherwise does
	Backlog int            // how many connections may wait: listen(2), at most net.core.somaxconn
	Waiting int            // how many do; one more than Backlog at most
}

// Messages of include/uapi/linux/inet_diag.h and sock_diag.h.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	skv6only         = 11 // INET_DIAG_SKV6ONLY
	stateListen      = 10 // TCP_LISTEN

	requestLen = 56 // struct inet_diag_req_v2
	answerLen  = 72 // struct inet_diag_msg

	// Where struct inet_diag_msg has what.
	sourcePort = 4
	source     = 8
	rqueue     = 56
	wqueue     = 60
)

// Listeners are the listening TCP sockets of the network namespace of the calling
// thread.
func Listeners() ([]Listener, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, fmt.Errorf("backlog: open: %w", err)
	}
	defer c.Close()
	var list []Listener
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		answers, err := c.Execute(request(family))
		if err != nil {
			return nil, fmt.Errorf("backlog: ask for listening sockets: %w", err)
		}
		for _, a := range answers {
			if l, ok := parse(a.Data); ok {
				list = append(list, l)
			}
		}
	}
	return list, nil
}

// request asks for all listening sockets of a family.
func request(family uint8) netlink.Message {
	data := make([]byte, requestLen)
	data[0], data[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(data[4:], 1<<stateListen)
	return netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump},
		Data:   data,
	}
}

// parse reads a struct inet_diag_msg and what follows it. For a listening socket
// its queues are those of connections, not of octets (tcp_diag.c:
// tcp_diag_get_info).
func parse(b []byte) (Listener, bool) {
	if len(b) < answerLen {
		return Listener{}, false
	}
	addr := netip.AddrFrom16([16]byte(b[source:])).Unmap()
	if b[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(b[source:]))
	}
	return Listener{
		Addr:    netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[sourcePort:])),
		V6Only:  isV6Only(b[answerLen:]),
		Backlog: int(binary.NativeEndian.Uint32(b[wqueue:])),
		Waiting: int(binary.NativeEndian.Uint32(b[rqueue:])),
	}, true
}

func isV6Only(attributes []byte) bool {
	d, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return false
	}
	for d.Next() {
		if d.Type() == skv6only {
			return d.Uint8() != 0
		}
	}
	return false
}
