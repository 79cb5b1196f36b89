package pfconf

import (
	"math"
	"slices"
	"strconv"
)

// The names of pf's timeouts: those that nfqfw has too, and those it has not, which
// are for other protocols, or for what nfqfw leaves to the kernel.
var (
	timeouts = []string{
		"tcp.first", "tcp.opening", "tcp.established", "tcp.closing", "tcp.finwait", "tcp.closed", "src.track",
	}
	adaptive      = []string{"adaptive.start", "adaptive.end"} // numbers of states
	otherTimeouts = []string{
		"tcp.tsdiff", "udp.first", "udp.single", "udp.multiple", "icmp.first", "icmp.error", "other.first",
		"other.single", "other.multiple", "frag", "interval", "sctp.first", "sctp.opening", "sctp.established",
		"sctp.closing", "sctp.closed",
	}
)

// timeout reads the value of a timeout, and gives it on, or the lack of it.
func (p *parser) timeout(name string, set func(entry), lack func(string)) {
	switch {
	case slices.Contains(timeouts, name):
		set(entry{name, strconv.FormatInt(p.number(name, 0, math.MaxInt32), 10) + "s"})
	case slices.Contains(adaptive, name):
		set(entry{name, p.number(name, 0, math.MaxInt32)})
	case slices.Contains(otherTimeouts, name):
		p.number(name, 0, math.MaxInt32)
		lack(name)
	case name != "":
		p.fail(name, "is not a timeout or an option of state")
		p.skipValue()
	}
}

// skipValue passes over what belongs to a name that is not known.
func (p *parser) skipValue() {
	for !p.atEnd() && !p.peek().is(",") && !p.peek().is(")") && !p.peek().is("}") {
		p.next()
	}
}
