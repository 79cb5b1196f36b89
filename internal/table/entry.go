package table

import (
	"net/netip"
	"time"
)

// Origin says where an entry comes from.
type Origin uint8

// The origins.
const (
	File     Origin = iota // the configuration, or a file that it names
	Command                // nfqfw table NAME add
	Overload               // a source over the limit of a rule that says so
)

// String is the origin's word in the listings.
func (o Origin) String() string {
	switch o {
	case File:
		return "file"
	case Command:
		return "command"
	}
	return "overload"
}

// Entry is an entry of a table.
type Entry struct {
	Prefix  netip.Prefix
	Negated bool
	Origin  Origin
	Added   time.Duration // when it came; to refresh it leaves that
	Expires time.Duration // it is gone from then on; 0: never
}

// value is an entry as the trie keeps it.
type value struct {
	added, expires time.Duration
	ticket         uint64 // of its deadline; 0: it has none
	origin         Origin
	negated        bool
}

func (v value) expired(now time.Duration) bool { return v.expires != 0 && v.expires <= now }

func (v value) entry(p netip.Prefix) Entry {
	return Entry{Prefix: p, Negated: v.negated, Origin: v.origin, Added: v.added, Expires: v.expires}
}
