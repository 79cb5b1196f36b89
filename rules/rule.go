// Package rules is the ruleset: which connections are filtered and under which
// limits, with pf's meaning. A packet that no rule matches is none of ours.
//
// Of the rules that match, the last one wins, unless an earlier one is quick
// (pf.conf(5)). A Ruleset never changes once made; a reload makes a new one.
// The package reads no files and knows no states: internal/config fills it,
// internal/engine asks it.
package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nfqfw/internal/packet"
)

// PortRange is an interval of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Rule is one rule. The zero value of a limit is no limit.
type Rule struct {
	Number int    // place in the file, from 1
	Name   string // unique; never empty
	Action Action
	On     []string // interfaces a connection comes in by; empty: any, or NotOn
	NotOn  []string // if not empty, a connection comes in by one that is none of these
	From   Addresses
	To     Addresses
	Ports  []PortRange // empty: any
	State  State
	Quick  bool
	// Backlog is how many half-open connections the servers of the rule stand
	// (listen(2)), for Adaptive; 0: not known.
	Backlog uint32

	// Max bounds the states of the rule, and MaxSrcStates those of a source, from
	// admission until they are removed; MaxSrcConn bounds the connections of a
	// source that count (Count), MaxSrcNodes the sources of the rule.
	Max            uint32
	MaxSrcConn     uint32
	MaxSrcConnRate Rate
	MaxSrcStates   uint32
	MaxSrcNodes    uint32
	SourceTrack    Track
	SourcePrefixV4 uint8 // bits of the client's address that make a source, 1-32
	SourcePrefixV6 uint8 // 1-128
	Count          Count
	Refuse         Refuse
	Overload       string // the table for sources over MaxSrcConn or MaxSrcConnRate; empty: none
	Flush          Flush  // what goes with it
	CountOnly      bool   // refusals are counted and logged, and nothing is refused
}

// Rate is at most Count connections in any window of that length, however it lies.
// The zero value is no limit.
type Rate struct {
	Count  uint32
	Window time.Duration // above 0
}

// String is as the configuration writes it: "100/10s".
func (r Rate) String() string { return fmt.Sprintf("%d/%s", r.Count, short(r.Window)) }

// short is a duration without the units that are zero.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// CountsServer says whether a connection stops counting when its server has
// sent a FIN, or either side a RST.
func (r *Rule) CountsServer() bool { return r.Count == CountServerEstablished }

// OnlyCountsBlocks says whether the rule would block, and does not: another rule
// decides about the connection.
func (r *Rule) OnlyCountsBlocks() bool { return r.Action == Block && r.CountOnly }

// Serves says whether a server is one that the rule is about, as far as
// its prefixes tell.
func (r *Rule) Serves(server netip.AddrPort) bool {
	return r.matchesPort(server.Port()) && r.To.Prefixes.Contains(server.Addr())
}

func (r *Rule) matchesPort(port uint16) bool {
	if len(r.Ports) == 0 {
		return true
	}
	return slices.ContainsFunc(r.Ports, func(p PortRange) bool { return p.First <= port && port <= p.Last })
}

// Source is the group of addresses that a client counts in: its address, cut
// to the rule's source prefix.
func (r *Rule) Source(client packet.Addr) netip.Prefix {
	a := client.Netip()
	bits := r.SourcePrefixV6
	if a.Is4() {
		bits = r.SourcePrefixV4
	}
	p := netip.PrefixFrom(a, int(bits))
	if p.IsSingleIP() {
		return p // nothing to cut off
	}
	return p.Masked()
}
