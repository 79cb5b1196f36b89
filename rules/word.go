package rules

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

// Flush says which states of a source go when it is put into the table that its
// rule's overload names.
type Flush uint8

// What is flushed.
const (
	FlushNone   Flush = iota
	FlushRule         // the states that the rule made
	FlushGlobal       // all
)

// String is the configuration's word.
func (f Flush) String() string { return name(flushNames, f) }

// The words of each type, in the order of its values. internal/config reads
// them, and the listings print them.
var (
	actionNames = []string{"pass", "block"}
	stateNames  = []string{"keep", "synproxy", "adaptive"}
	trackNames  = []string{"rule", "global"}
	countNames  = []string{"server-established", "states"}
	refuseNames = []string{"reset", "drop"}
	flushNames  = []string{"none", "rule", "global"}
)

type word interface {
	Action | State | Track | Count | Refuse | Flush
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
	case Flush:
		return flushNames
	}
	return refuseNames
}

func name[T word](names []string, v T) string {
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}
