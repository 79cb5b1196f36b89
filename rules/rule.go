// Package rules is the ruleset: which connections are filtered and under which
// limits, with pf's meaning. A packet that no rule matches is none of ours.
//
// Of the rules that match, the last one wins, unless an earlier one is quick
// (pf.conf(5)). A Ruleset never changes once made; a reload makes a new one.
// The package reads no files and knows no states: internal/config fills it,
// internal/engine asks it.
package rules

import (
	"net/netip"
	"slices"

	"nfqfw/internal/packet"
)

// Action is what a rule does with a connection.
type Action uint8

// The actions.
const (
	Pass Action = iota
	Block
)

// String is pf's word.
func (a Action) String() string { return name(actionNames, a) }

// State is how the states of a rule come about.
type State uint8

// The state policies.
const (
	Keep     State = iota // the handshake passes through, and is watched
	Synproxy              // the firewall answers the handshake, and makes its own to the server
	Adaptive              // Keep, and Synproxy while many connections are half-open
)

// String is the configuration's word.
func (s State) String() string { return name(stateNames, s) }

// Track says which connections a source's count takes in.
type Track uint8

// What a source is tracked by.
const (
	TrackRule   Track = iota // a count per rule and source
	TrackGlobal              // one count per source for all rules that say so
)

// String is pf's word.
func (t Track) String() string { return name(trackNames, t) }

// Count says how long a connection counts for its source.
type Count uint8

// The counts.
const (
	CountServerEstablished Count = iota // while the server's side is ESTABLISHED
	CountStates                         // until the state is removed, as in pf
)

// String is the configuration's word.
func (c Count) String() string { return name(countNames, c) }

// Refuse is how a client over the limit is told.
type Refuse uint8

// The refusals.
const (
	RefuseReset Refuse = iota // a RST, at once
	RefuseDrop                // silence
)

// String is the configuration's word.
func (r Refuse) String() string { return name(refuseNames, r) }

// The words of each type, in the order of its values. internal/config reads
// them, and the listings print them.
var (
	actionNames = []string{"pass", "block"}
	stateNames  = []string{"keep", "synproxy", "adaptive"}
	trackNames  = []string{"rule", "global"}
	countNames  = []string{"server-established", "states"}
	refuseNames = []string{"reset", "drop"}
)

type word interface {
	Action | State | Track | Count | Refuse
}

// Words are the words of a type, in the order of its values.
func Words[T word]() []string {
	var zero T
	switch any(zero).(type) {
	case Action:
		return actionNames
	case State:
		return stateNames
	case Track:
		return trackNames
	case Count:
		return countNames
	}
	return refuseNames
}

func name[T word](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}

// PortRange is an interval of ports, both ends included.
type PortRange struct{ First, Last uint16 }

// Prefix is an address range a rule names, or one it takes out.
type Prefix struct {
	netip.Prefix
	Negated bool
}

// Prefixes is a list of address ranges. An empty one holds every address. An
// address is in the list if the longest prefix that holds it is not negated,
// as in a pf table; a list of negated prefixes only holds all others.
type Prefixes []Prefix

// Contains says whether the address is in the list.
func (l Prefixes) Contains(a netip.Addr) bool {
	in, longest := l.onlyNegated(), -1
	for _, p := range l {
		if p.Bits() >= longest && p.Prefix.Contains(a) {
			in, longest = !p.Negated, p.Bits()
		}
	}
	return in
}

func (l Prefixes) onlyNegated() bool {
	return !slices.ContainsFunc(l, func(p Prefix) bool { return !p.Negated })
}

// Rule is one rule. The zero value of a limit is no limit.
type Rule struct {
	Number int    // place in the file, from 1
	Name   string // unique; never empty
	Action Action
	On     []string // interfaces a connection comes in by; empty: any
	From   Prefixes
	To     Prefixes
	Ports  []PortRange // empty: any
	State  State
	Quick  bool
	// Backlog is how many half-open connections the servers of the rule stand
	// (listen(2)), for Adaptive; 0: not known.
	Backlog uint32

	MaxSrcConn     uint32
	SourceTrack    Track
	SourcePrefixV4 uint8 // bits of the client's address that make a source, 1-32
	SourcePrefixV6 uint8 // 1-128
	Count          Count
	Refuse         Refuse
}

// CountsServer says whether a connection stops counting when its server has
// sent a FIN, or either side a RST.
func (r *Rule) CountsServer() bool { return r.Count == CountServerEstablished }

// Matches says whether a connection that comes in by an interface is the rule's.
func (r *Rule) Matches(in string, t packet.Tuple) bool {
	return r.matchesPort(t.DstPort) &&
		(len(r.On) == 0 || slices.Contains(r.On, in)) &&
		r.To.Contains(t.Dst.Netip()) && r.From.Contains(t.Src.Netip())
}

// Serves says whether a server is one that the rule is about.
func (r *Rule) Serves(server netip.AddrPort) bool {
	return r.matchesPort(server.Port()) && r.To.Contains(server.Addr())
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
	return netip.PrefixFrom(a, int(bits)).Masked()
}

// Ruleset is an ordered list of rules.
type Ruleset struct{ rules []Rule }

// New makes a ruleset; it keeps the slice.
func New(rules []Rule) *Ruleset { return &Ruleset{rules: rules} }

// Rules are the rules, in order. They are not to be changed.
func (s *Ruleset) Rules() []Rule { return s.rules }

// Match finds the rule for a connection, or nil if none is.
func (s *Ruleset) Match(in string, t packet.Tuple) *Rule {
	var last *Rule
	for i := range s.rules {
		r := &s.rules[i]
		if !r.Matches(in, t) {
			continue
		}
		if r.Quick {
			return r
		}
		last = r
	}
	return last
}
