package pfconf

import (
	"fmt"
	"slices"
	"strings"
)

// combination is what one rule is about: interface, client, server and port, in the
// order in which pf goes through them.
type combination [4]choice

const (
	on = iota
	from
	to
	port
)

// expand makes the rules that a rule of pf is: one where its lists mean the same
// together, and one for each combination of their elements where they do not.
func (im *importer) expand(p *parser, b *block, r *filterRule) {
	lists := [4][]choice{on: r.interfaces(), from: hostChoices(r.from, r.family), to: hostChoices(r.to, r.family), port: r.portChoices()}
	apart := r.apart()
	for i, list := range lists {
		if len(list) == 0 {
			p.fail("address", "no address of the rule is of its version of IP")
			return
		}
		if !apart {
			lists[i] = []choice{together(list)}
		}
	}
	entries := im.entries(r)
	combine(lists, func(c combination) bool { return im.addRule(p, b, r, c, entries) })
	switch n := len(b.rules); {
	case len(p.errs) > 0:
	case n == 0:
		p.fail("address", "client and server have addresses of different versions of IP")
	case n > 1 && r.negatesInList():
		im.note(b, "a negated element takes nothing out of a list: pf makes %d rules of it, and what one of them matches is matched; a table takes out", n)
	case n > 1:
		b.comments = append(b.comments, fmt.Sprintf("%d rules, as in pf, each with its own counts", n))
	}
	im.use(b, slices.Concat(r.from, r.to, []host{{table: r.overload}}))
}

// combine goes through the combinations until f says that it is enough.
func combine(lists [4][]choice, f func(combination) bool) {
	for _, i := range lists[on] {
		for _, src := range lists[from] {
			for _, dst := range lists[to] {
				for _, ports := range lists[port] {
					if !f(combination{i, src, dst, ports}) {
						return
					}
				}
			}
		}
	}
}

// apart says whether the elements of the rule's lists mean another thing together than
// in rules of their own.
func (r *filterRule) apart() bool {
	perRule := r.has("max") || r.has("max_src_nodes") || r.tracksSources() && r.sourceTrack() == "rule"
	return r.negatesInList() || perRule || strings.Contains(r.label, "$")
}

// negatesInList says whether an element beside others is negated.
func (r *filterRule) negatesInList() bool {
	host := func(list []host) bool {
		return len(list) > 1 && slices.ContainsFunc(list, func(h host) bool { return h.negated })
	}
	return host(r.from) || host(r.to) ||
		len(r.on) > 1 && slices.ContainsFunc(r.on, func(i iface) bool { return i.negated })
}

// addRule adds the rule of a combination. It says whether more may follow.
func (im *importer) addRule(p *parser, b *block, r *filterRule, c combination, entries []entry) bool {
	client, server := c[from].family, c[to].family
	if client != server && client != unspecified && server != unspecified {
		return true
	}
	f := r.family
	if f != unspecified && client != f && server != f && !c[to].within(f) && !c[from].within(f) && !r.mixed {
		r.mixed = true
		im.lack(b, "inet and inet6 of a rule with tables at both ends")
	}
	n := 1 + len(entries) + len(r.lifetimes)
	for _, choice := range c {
		n += len(choice.elements)
	}
	if len(b.rules) == 0 {
		n -= len(p.tokens) // as many as stand there are not too many
	}
	b.rules = append(b.rules, &rule{
		combination: c, line: b.from.first, block: !r.pass, quick: r.quick, label: r.labelOf(c), entries: entries,
	})
	return im.spend(p, n)
}

// labelOf puts into the rule's label what it is about, where it asks for that.
func (r *filterRule) labelOf(c combination) string {
	proto := "tcp"
	if len(r.protos) == 0 {
		proto = "any"
	}
	return strings.NewReplacer("$if", c[on].text, "$srcaddr", c[from].text, "$dstaddr", c[to].text,
		"$srcport", "any", "$dstport", c[port].text, "$proto", proto, "$nr", "").Replace(r.label)
}
