package pfconf

import (
	"math"
	"strconv"
)

// tracking are the limits of a rule, by the key that nfqfw has for each, and what
// source-track says.
type tracking struct {
	limits   []entry
	track    string // "rule", "global", or empty
	overload string
	flush    string // "rule", "global", or empty
}

// state reads "state" and its options.
func (p *parser) state(r *filterRule) {
	r.stateful = true
	p.expect("state")
	if !p.peek().is("(") {
		return
	}
	seen := make(map[string]bool)
	p.group(func() {
		name := p.text("an option of state")
		if seen[name] {
			p.fail(name, "is set twice")
		}
		seen[name] = true
		p.stateOption(r, name)
	})
}

// stateOptions without a number, and why nfqfw has no equivalent.
var stateOptions = map[string]string{
	"no-sync":       "no-sync (no state is shared with another machine)",
	"pflow":         "pflow",
	"if-bound":      "if-bound (a state is bound to no interface, and the SYN proxy reaches servers on this machine too)",
	"group-bound":   "group-bound (a state is bound to no interface)",
	"floating":      "floating (no state is bound to an interface)",
	"sloppy":        "sloppy (sequence numbers are always checked)",
	"allow-related": "allow-related",
}

func (p *parser) stateOption(r *filterRule, name string) {
	if lack, ok := stateOptions[name]; ok {
		r.lack(lack)
		return
	}
	switch name {
	case "max", "max-src-states", "max-src-nodes", "max-src-conn":
		r.limits = append(r.limits, entry{limitKeys[name], p.number(name, 1, math.MaxUint32)})
	case "max-src-conn-rate":
		n := p.number(name, 1, math.MaxUint32)
		p.expect("/")
		seconds := p.number(name, 1, math.MaxUint32)
		r.limits = append(r.limits, entry{limitKeys[name], strconv.FormatInt(n, 10) + "/" + strconv.FormatInt(seconds, 10) + "s"})
	case "source-track":
		if r.track = p.acceptAny("rule", "global"); r.track == "" {
			r.track = "default"
		}
	case "overload":
		p.overload(r)
	default:
		p.timeout(name, func(e entry) { r.lifetimes = append(r.lifetimes, e) }, r.lack)
	}
}

// limitKeys are nfqfw's words for pf's limits, in the order of its configuration.
var limitKeys = map[string]string{
	"max": "max", "max-src-conn": "max_src_conn", "max-src-conn-rate": "max_src_conn_rate",
	"max-src-states": "max_src_states", "max-src-nodes": "max_src_nodes",
}

// overload reads the table and what is flushed.
func (p *parser) overload(r *filterRule) {
	r.overload = p.tableRef()
	if !p.accept("flush") {
		return
	}
	r.flush = "rule"
	if p.accept("global") {
		r.flush = "global"
	}
}

// number reads a whole number from an interval, both ends included.
func (p *parser) number(what string, first, last int64) int64 {
	text := p.text("a number")
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case text == "": // an error of grammar, told already
	case err != nil && !isNumeric(text):
		p.fail(what, "%s is not a number", shown(text))
	case err != nil || n < first || n > last:
		p.fail(what, "%s is out of range (%d-%d)", cut(text), first, last)
	}
	return n
}
