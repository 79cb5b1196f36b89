package pfconf

import "slices"

// filterRule is a pass or block rule as it is written.
type filterRule struct {
	pass    bool
	policy  string // of block: drop, or one of the ways to return; empty: block-policy
	in      string // direction: in, out, or empty for both
	quick   bool
	on      []iface
	family  family
	protos  []string
	from    []host
	to      []host
	source  bool // it names ports of the client
	ports   []ports
	anyPort bool // it names no ports

	stateful bool // it has options of state
	synproxy bool
	label    string
	tracking
	lifetimes []entry

	// lacks are the conditions and options that have no equivalent. With a condition
	// the rule is left out.
	lacks     []string
	condition string
	mixed     bool // it could not be kept to its version of IP, which is noted
}

// iface is an element of "on".
type iface struct {
	name    string
	negated bool
}

// lack notes an option that has no equivalent.
func (r *filterRule) lack(what string) { r.lacks = append(r.lacks, what) }

// need notes a condition that has no equivalent.
func (r *filterRule) need(what string) {
	if r.condition == "" {
		r.condition = what
	}
}

// filterRule reads a rule from the word behind pass or block on, in pf's order.
func (p *parser) filterRule(pass bool) *filterRule {
	r := &filterRule{pass: pass}
	if !pass {
		r.policy = p.acceptAny("drop", "return", "return-rst", "return-icmp", "return-icmp6")
		if p.peek().is("(") {
			p.group(func() { p.next() })
		}
	}
	r.in = p.acceptAny("in", "out")
	p.log(r)
	r.quick = p.accept("quick")
	p.on(r)
	p.head(r)
	for !p.atEnd() {
		p.filterOption(r)
	}
	return r
}

// log reads "log" and its options.
func (p *parser) log(r *filterRule) {
	if !p.accept("log") {
		return
	}
	r.lack("log")
	if p.peek().is("(") {
		p.group(func() { p.next() })
	}
}

// on reads the interfaces.
func (p *parser) on(r *filterRule) {
	switch {
	case !p.accept("on"):
	case p.peek().is("rdomain"):
		r.need("on rdomain")
		p.next()
		p.text("the number of a routing domain")
	default:
		p.list(func() { r.on = append(r.on, p.iface()) })
	}
}

func (p *parser) iface() iface {
	negated := p.accept("!")
	return iface{p.text("the name of an interface"), negated}
}

// routeOptions may stand before the family.
var routeOptions = []string{"route-to", "reply-to", "dup-to", "fastroute", "rtable"}

// head reads what follows the interface: family, protocol, addresses and ports.
func (p *parser) head(r *filterRule) {
	for slices.ContainsFunc(routeOptions, p.peek().is) {
		r.lack(p.unsupported(headWords))
	}
	switch p.acceptAny("inet", "inet6") {
	case "inet":
		r.family = inet
	case "inet6":
		r.family = inet6
	}
	if p.accept("proto") {
		p.list(func() { r.protos = append(r.protos, p.text("a protocol")) })
	}
	r.anyPort = true
	if p.accept("all") {
		return
	}
	if p.accept("from") {
		p.endpoint(&r.from, func(ports) { r.source = true })
	}
	if p.accept("os") {
		r.need("os")
		p.list(func() { p.text("the name of an operating system") })
	}
	if p.accept("to") {
		p.endpoint(&r.to, func(list ports) {
			r.ports, r.anyPort = append(r.ports, list), false
		})
	}
	if (r.source || !r.anyPort) && len(r.protos) == 0 {
		p.fail("port", "a rule with ports needs its protocol (proto tcp)")
	}
}

// endpoint reads addresses, ports, or both.
func (p *parser) endpoint(hosts *[]host, port func(ports)) {
	if !p.peek().is("port") {
		p.list(func() { *hosts = append(*hosts, p.host()) })
	}
	if p.accept("port") {
		p.list(func() { port(p.port()) })
	}
}
