package ipset

import (
	"fmt"
	"hash/fnv"
)

// prefix begins the name of each set of ours. A table's name does not begin with "-",
// so that the name of newSet is no table's.
const (
	prefix = "NFQFW-"
	newSet = "-new"
)

// maxTable is how many octets of a table's name fit into that of a set, which has 31
// (IPSET_MAXNAMELEN).
const maxTable = 31 - len(prefix) - len("-4")

// A family is a version of IP, as a set has one.
type family struct {
	ipv6 bool
	word string // for ipset
}

var families = []family{{false, "inet"}, {true, "inet6"}}

// Name is the name of the set that follows a table. A table with a long name is known
// by its beginning, and the rest by a hash.
func Name(table string, ipv6 bool) string {
	if len(table) > maxTable {
		h := fnv.New32a()
		_, _ = h.Write([]byte(table)) // never fails
		table = fmt.Sprintf("%s~%08x", table[:maxTable-len("~")-8], h.Sum32())
	}
	if ipv6 {
		return prefix + table + "-6"
	}
	return prefix + table + "-4"
}
