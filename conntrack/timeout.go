package conntrack

import "time"

// Timeout is a class of lifetimes: which one a state has follows from the
// states of its peers (pf.conf(5), "set timeout").
type Timeout uint8

// The classes.
const (
	TCPFirst       Timeout = iota // after the first packet, and while the SYN proxy shakes hands
	TCPOpening                    // a peer is not ESTABLISHED yet
	TCPEstablished                // both are ESTABLISHED
	TCPClosing                    // one has sent a FIN
	TCPFinWait                    // both have sent one
	TCPClosed                     // both FINs are acknowledged, or a RST was seen
	timeoutCount
)

// TimeoutCount is the number of classes.
const TimeoutCount = int(timeoutCount)

var timeoutNames = [TimeoutCount]string{
	"tcp.first", "tcp.opening", "tcp.established", "tcp.closing", "tcp.finwait", "tcp.closed",
}

// String is pf's name.
func (t Timeout) String() string {
	if int(t) < TimeoutCount {
		return timeoutNames[t]
	}
	return "unknown"
}

// Timeouts are the lifetimes of all classes.
type Timeouts [TimeoutCount]time.Duration

// Optimization finds pf's preset of that name ("set optimization").
func Optimization(name string) (Timeouts, bool) {
	seconds, ok := optimizations[name]
	var t Timeouts
	for i, s := range seconds {
		t[i] = s * time.Second
	}
	return t, ok
}

// In the order of the classes, in seconds.
var optimizations = map[string][TimeoutCount]time.Duration{
	"normal":       {120, 30, 86400, 900, 45, 90},
	"high-latency": {180, 35, 86400, 905, 50, 95},
	"satellite":    {180, 35, 86400, 905, 50, 95},
	"conservative": {3600, 900, 432000, 3600, 600, 180},
	"aggressive":   {30, 5, 18000, 60, 30, 30},
}

// DefaultTimeouts is the preset "normal".
func DefaultTimeouts() Timeouts {
	t, _ := Optimization("normal")
	return t
}

// Scaling shortens lifetimes as states grow many (pf.conf(5), adaptive.start and
// adaptive.end). The zero value leaves them alone.
type Scaling struct {
	Start int // states from which on lifetimes are shortened, in a straight line,
	End   int // to nothing at so many; at least Start
}

// Scale is what is left of a lifetime while there are so many states.
func (a Scaling) Scale(t time.Duration, states int) time.Duration {
	switch {
	case a.End == 0 || states <= a.Start:
		return t
	case states >= a.End:
		return 0
	}
	return t / time.Duration(a.End-a.Start) * time.Duration(a.End-states)
}

// Lifetimes are the timeouts of a rule's states and of its sources.
type Lifetimes struct {
	Timeouts
	Scaling
	OwnScaling bool          // by the number of the rule's own states, not of all
	SrcTrack   time.Duration // how long a source is remembered after its last state
}
