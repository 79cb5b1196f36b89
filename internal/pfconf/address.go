package pfconf

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// isNumeric says whether a word is an IPv4 address or the beginning of one, and no name.
func isNumeric(s string) bool { return strings.Trim(s, "0123456789.") == "" }

var errNotAddress = errors.New("not an address")

// parseIPv4 reads an address that may be short of octets. Before a prefix length those
// that are missing are zero at the end, and without one, in front of the last octet,
// as in inet_aton(3).
func parseIPv4(s string, hasBits bool) (netip.Addr, error) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 || len(parts) == 1 && !hasBits {
		return netip.Addr{}, errNotAddress
	}
	var octets [4]byte
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil {
			return netip.Addr{}, errNotAddress
		}
		if i == len(parts)-1 && !hasBits {
			i = 3
		}
		octets[i] = byte(n)
	}
	return netip.AddrFrom4(octets), nil
}

// parsePrefix reads an address or a prefix. Bits beyond its length are cut off, as in
// pf. Without an error it is valid.
func parsePrefix(text, bits string, hasBits bool) (netip.Prefix, error) {
	a, err := netip.ParseAddr(text)
	if err != nil && isNumeric(text) {
		a, err = parseIPv4(text, hasBits)
	}
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s is not an address", shown(text))
	}
	a = a.WithZone("")
	if !hasBits {
		return single(a), nil
	}
	n, err := strconv.ParseUint(bits, 10, 8)
	if err != nil || int(n) > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("%s/%s is not a prefix; its length is 0-%d", cut(text), cut(bits), a.BitLen())
	}
	return netip.PrefixFrom(a, int(n)).Masked(), nil
}

// single is the prefix of one address.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// cover is the fewest prefixes that hold the addresses from first to last and no
// others: at most two for each bit.
func cover(first, last netip.Addr) (list []netip.Prefix) {
	for first.IsValid() && first.Compare(last) <= 0 {
		p := single(first)
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			if wider.Masked().Addr() != first || lastOf(wider).Compare(last) > 0 {
				break
			}
			p = wider
		}
		list = append(list, p)
		first = lastOf(p).Next()
	}
	return list
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	octets := p.Addr().AsSlice()
	for i := range octets {
		octets[i] |= 0xff >> min(max(p.Bits()-8*i, 0), 8)
	}
	a, _ := netip.AddrFromSlice(octets)
	return a
}

// everything is the prefix that holds all addresses of a version of IP.
func everything(f family) string {
	if f == inet6 {
		return "::/0"
	}
	return "0.0.0.0/0"
}

// family is a version of IP.
type family uint8

const (
	unspecified family = iota
	inet
	inet6
)

func familyOf(p netip.Prefix) family {
	if p.Addr().Is4() {
		return inet
	}
	return inet6
}
