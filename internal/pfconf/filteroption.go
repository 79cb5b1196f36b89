package pfconf

import (
	"slices"
	"strings"
)

// Options of a rule that nfqfw has not. Those in the first list are conditions.
var (
	conditions = []string{
		"user", "group", "icmp-type", "icmp6-type", "tos", "fragment", "tagged", "prio", "probability", "received-on",
		"max-pkt-rate",
	}
	actions = []string{
		"allow-opts", "tag", "queue", "rtable", "set", "scrub", "divert-to", "divert-reply", "divert-packet", "once",
		"nat-to", "rdr-to", "binat-to", "af-to", "route-to", "reply-to", "dup-to", "ridentifier", "dnpipe", "dnqueue",
		"min-ttl", "max-mss", "no-df", "random-id", "reassemble",
	}
	options = slices.Concat(conditions, actions, []string{
		"flags", "keep", "modulate", "synproxy", "no", "label", "state", "source", "!",
	})
	// headWords may follow an option that stands before them.
	headWords = append([]string{"inet", "inet6", "proto", "all", "from", "to"}, options...)
)

// filterOption reads one of the options at the end of a rule.
func (p *parser) filterOption(r *filterRule) {
	switch {
	case p.accept("flags"):
		p.flags(r)
	case p.accept("keep"):
		p.state(r)
	case p.accept("modulate"):
		r.lack(`modulate state (Linux' initial sequence numbers are random already)`)
		p.state(r)
	case p.accept("synproxy"):
		r.synproxy = true
		p.state(r)
	case p.accept("no"):
		if p.expect("state"); r.pass {
			r.lack("no state (what passes has a state)")
		}
	case p.accept("label"):
		r.label = p.textOrNone("a label")
	case p.peek().is("state") || p.peek().is("source"):
		r.lack(p.unsupported(options))
	case p.accept("!"):
		p.expect("tagged")
		r.need("! tagged " + p.text("a tag"))
	case slices.ContainsFunc(conditions, p.peek().is):
		r.need(p.unsupported(options))
	case slices.ContainsFunc(actions, p.peek().is):
		r.lack(p.unsupported(options))
	default:
		p.unexpected("an option of a rule")
	}
}

// unsupported passes over an option and what belongs to it, up to one of those that may
// follow, and is what it passed over.
func (p *parser) unsupported(following []string) string {
	from, depth := p.pos, 0
	first := p.next()
	if first.is("set") && !p.peek().is("(") || first.is("received-on") && p.peek().is("!") {
		p.next() // looks like an option, and is none
	}
	for !p.atEnd() && (depth > 0 || !slices.ContainsFunc(following, p.peek().is)) {
		switch t := p.next(); {
		case t.is("(") || t.is("{"):
			depth++
		case t.is(")") || t.is("}"):
			depth--
		}
	}
	return cut(join(p.tokens[from:p.pos]))
}

// flags reads which flags of TCP a packet must have: of those behind the slash, those
// before it and no others. A rule that a SYN does not match is about packets that open
// nothing.
func (p *parser) flags(r *filterRule) {
	if p.accept("any") {
		r.lack("flags any (only a SYN opens a connection)")
		return
	}
	set := ""
	if !p.peek().is("/") {
		set = p.flagLetters()
	}
	p.expect("/")
	of := p.flagLetters()
	switch {
	case strings.Trim(set, "S") != "" || set == "" && strings.Contains(of, "S"):
		r.need("flags " + set + "/" + of)
	case !strings.Contains(of, "S") || !strings.Contains(of, "A"):
		r.lack("flags " + set + "/" + of + " (only a SYN opens a connection)")
	}
}

func (p *parser) flagLetters() string {
	s := p.text("flags of TCP")
	if strings.Trim(s, "FSRPAUEW") != "" {
		p.fail("flags", "%s are not flags of TCP (F, S, R, P, A, U, E or W)", shown(s))
	}
	return s
}
