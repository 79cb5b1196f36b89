package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// SocketState is the state of a TCP socket; the numbers are the kernel's
// (include/net/tcp_states.h).
type SocketState uint8

// The states of a TCP socket.
const (
	Established SocketState = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
)

var socketStateNames = [...]string{
	Established: "ESTAB",
	SynSent:     "SYN-SENT",
	SynRecv:     "SYN-RECV",
	FinWait1:    "FIN-WAIT-1",
	FinWait2:    "FIN-WAIT-2",
	TimeWait:    "TIME-WAIT",
	Close:       "UNCONN",
	CloseWait:   "CLOSE-WAIT",
	LastAck:     "LAST-ACK",
	Listen:      "LISTEN",
	Closing:     "CLOSING",
}

// String returns the state as ss(8) prints it.
func (s SocketState) String() string {
	if int(s) < len(socketStateNames) && s != 0 {
		return socketStateNames[s]
	}
	return fmt.Sprintf("SocketState(%d)", uint8(s))
}

// Socket is a TCP socket as the kernel sees it.
type Socket struct {
	Local, Remote netip.AddrPort
	State         SocketState
	// RecvQueue and SendQueue are bytes waiting; for a listener, connections
	// waiting to be accepted and how many may.
	RecvQueue, SendQueue uint32
	// INode is 0 while no program holds the socket: an established connection
	// with INode 0 has not been accepted, or has been closed.
	INode uint32
	// Cookie is the kernel's number of the socket, which no other ever gets.
	Cookie uint64
}

// String formats the socket as a line of ss(8).
func (s Socket) String() string { return fmt.Sprintf("%v %v %v", s.State, s.Local, s.Remote) }

// Sockets is a listing that can be narrowed.
type Sockets []Socket

// In returns those in one of the states.
func (s Sockets) In(states ...SocketState) Sockets {
	return s.keep(func(k Socket) bool { return slices.Contains(states, k.State) })
}

// Local returns those on a local port.
func (s Sockets) Local(port uint16) Sockets {
	return s.keep(func(k Socket) bool { return k.Local.Port() == port })
}

// From returns those whose remote address is a.
func (s Sockets) From(a netip.Addr) Sockets {
	return s.keep(func(k Socket) bool { return k.Remote.Addr() == a })
}

// Accepted returns those that a program holds.
func (s Sockets) Accepted() Sockets {
	return s.keep(func(k Socket) bool { return k.INode != 0 })
}

func (s Sockets) keep(cond func(Socket) bool) Sockets {
	var kept Sockets
	for _, k := range s {
		if cond(k) {
			kept = append(kept, k)
		}
	}
	return kept
}

// diagTries is how often a dump that the kernel calls inconsistent is asked
// for again.
const diagTries = 5

// Sockets lists the TCP sockets of the namespace, of both families and in the
// given states; without any, in all states. IPv4 peers of a dual-stack socket
// are listed with their IPv4 addresses.
func (n *Namespace) Sockets(states ...SocketState) (Sockets, error) {
	var all Sockets
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		dump, err := n.socketDiag(family)
		if err != nil {
			return nil, fmt.Errorf("list sockets of %s: %w", n.Name, err)
		}
		for _, d := range dump {
			all = append(all, newSocket(d))
		}
	}
	if len(states) == 0 {
		return all, nil
	}
	return all.In(states...), nil
}

func (n *Namespace) socketDiag(family uint8) (dump []*netlink.Socket, err error) {
	for range diagTries {
		err = n.onResident(func() (err error) {
			dump, err = netlink.SocketDiagTCP(family)
			return err
		})
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return dump, err
		}
	}
	return nil, err
}

func newSocket(d *netlink.Socket) Socket {
	return Socket{
		Local:     addrPort(d.ID.Source, d.ID.SourcePort),
		Remote:    addrPort(d.ID.Destination, d.ID.DestinationPort),
		State:     SocketState(d.State),
		RecvQueue: d.RQueue,
		SendQueue: d.WQueue,
		INode:     d.INode,
		Cookie:    uint64(d.ID.Cookie[1])<<32 | uint64(d.ID.Cookie[0]),
	}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}
