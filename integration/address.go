package integration

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Family is an IP version.
type Family uint8

// The two families every lab has.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both, for tests that range over them.
var Families = []Family{IPv4, IPv6}

// String returns "IPv4" or "IPv6".
func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// Host numbers within a subnet, written decimally in both families.
const (
	gatewayHost     = 1
	serverHost      = 10
	firstClientHost = 7
	lastClientHost  = 20
)

// ClientAddrs is how many addresses each client network has from the start.
const ClientAddrs = lastClientHost - firstClientHost + 1

// subnet is one link's network in both families, as text to which a host
// number is appended.
type subnet struct{ v4, v6 string }

var (
	clientNet = subnet{"198.51.100.", "2001:db8:1::"}
	secondNet = subnet{"203.0.113.", "2001:db8:2::"}
	serverNet = subnet{"192.0.2.", "2001:db8::"}
)

// The benchmarking ranges lie behind the client: the crowd is local to it,
// nobody is behind the absent rest.
var (
	benchNets = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("2001:2::/48")}
	crowdNets = []netip.Prefix{netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("2001:2::/49")}
)

// host returns the address with the given number.
func (s subnet) host(f Family, n int) netip.Addr {
	if f == IPv6 {
		return netip.MustParseAddr(s.v6 + strconv.Itoa(n))
	}
	return netip.MustParseAddr(s.v4 + strconv.Itoa(n))
}

// prefix returns the subnet, with the host's own address in it.
func (s subnet) prefix(f Family, n int) netip.Prefix {
	bits := 24
	if f == IPv6 {
		bits = 64
	}
	return netip.PrefixFrom(s.host(f, n), bits)
}

// ServerAddr is the address of the server namespace.
func ServerAddr(f Family) netip.Addr { return serverNet.host(f, serverHost) }

// GatewayAddr is the gateway's address towards the clients: where a server on
// the firewall itself listens.
func GatewayAddr(f Family) netip.Addr { return clientNet.host(f, gatewayHost) }

// ClientAddr is the i-th address of the client, from 0 to ClientAddrs-1.
func ClientAddr(f Family, i int) netip.Addr { return clientNet.host(f, firstClientHost+i) }

// SecondClientAddr is the i-th address of the client on its second network,
// from 0 to ClientAddrs-1.
func SecondClientAddr(f Family, i int) netip.Addr { return secondNet.host(f, firstClientHost+i) }

// benchRange is how many addresses CrowdAddr and AbsentAddr tell apart.
const benchRange = 1 << 15

// CrowdAddr is one of 32768 further addresses from which the client can dial,
// for tests with many sources. In IPv6 each is in a /64 of its own.
func CrowdAddr(f Family, i int) netip.Addr { return benchAddr(f, i, 0) }

// AbsentAddr is one of 32768 addresses that are routed to the client but
// answer nothing, not even with a reset: the sources of a spoofed flood.
func AbsentAddr(f Family, i int) netip.Addr { return benchAddr(f, i, 1) }

// benchAddr returns an address in the given half of a benchmarking range.
func benchAddr(f Family, i, half int) netip.Addr {
	i %= benchRange
	if f == IPv6 {
		a := benchNets[1].Addr().As16()
		binary.BigEndian.PutUint16(a[6:], uint16(half*benchRange+i))
		a[15] = 1
		return netip.AddrFrom16(a)
	}
	a := benchNets[0].Addr().As4()
	a[1] += byte(half)
	binary.BigEndian.PutUint16(a[2:], uint16(i+1)) // not the all-zero address
	return netip.AddrFrom4(a)
}

// familyOf tells an address's family.
func familyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}
