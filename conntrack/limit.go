package conntrack

import "time"

// Limits are those that a connection has to stay within to be admitted. Zero is
// no limit.
type Limits struct {
	Conns  uint32 // connections of its source that count
	States uint32 // states of its source, from admission until they are removed
	Rate   Rate   // connections of its source that are admitted
	Nodes  uint32 // sources that are counted together
	// Track is how long the source is remembered after its last state: the Window
	// of Rate at least, without which that could not be judged.
	Track time.Duration
	// Shared says that the same sources have limits of other rules too, and Keep how
	// many admissions these want remembered: as many as Rate's Count at least.
	Shared bool
	Keep   uint32
}

// Any says whether the source has to be known.
func (l *Limits) Any() bool { return l.Bounds() || l.Shared }

// Bounds says whether a source has a limit.
func (l *Limits) Bounds() bool {
	return l.Conns > 0 || l.States > 0 || l.Rate.Count > 0 || l.Nodes > 0
}

// Rate is at most Count in any interval of the length Window that is open at one
// end. A Count of 0 is no limit.
type Rate struct {
	Count  uint32
	Window time.Duration
}

// Limit names one of Limits.
type Limit uint8

// The limits.
const (
	LimitNone Limit = iota
	LimitConns
	LimitStates
	LimitRate
	LimitNodes
)

// Excess is a limit that a connection more would pass. The zero value is none.
type Excess struct {
	Limit Limit
	Count uint32 // how many there are,
	Of    uint32 // of so many that there may be
}

// excess says whether a connection more of a source would pass a limit, beside those that
// places are reserved for.
func (l *Limits) excess(s *Source, reserved int, now time.Duration) Excess {
	switch {
	case l.States > 0 && s.states+reserved >= int(l.States):
		return Excess{LimitStates, uint32(s.states), l.States}
	case l.Conns > 0 && s.slots+reserved >= int(l.Conns):
		return Excess{LimitConns, uint32(s.slots), l.Conns}
	case l.Rate.Count > 0 && s.admitted.full(l.Rate, reserved, now):
		return Excess{LimitRate, l.Rate.Count, l.Rate.Count}
	}
	return Excess{}
}
