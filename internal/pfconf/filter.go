package pfconf

import (
	"slices"
	"strings"
)

// filter translates a pass or block rule.
func (im *importer) filter(p *parser, b *block, pass bool) {
	r := p.filterRule(pass)
	if r.stateful && !pass {
		p.fail("block", "what is blocked has no state; remove the options of state")
	}
	why := r.leftOut()
	if why == "" {
		p.errs = append(p.errs, p.unknown...)
	}
	if len(p.errs) > 0 {
		return
	}
	im.body = append(im.body, *b)
	b = &im.body[len(im.body)-1]
	switch {
	case why != "":
		im.lack(b, why)
	case len(r.portChoices()) == 0:
		im.lack(b, "a rule for no port; it matches nothing")
	default:
		im.remark(b, p)
		im.noteLacks(b, r)
		im.expand(p, b, r)
	}
}

// leftOut says why a rule is not translated, or nothing.
func (r *filterRule) leftOut() string {
	action := "block"
	if r.pass {
		action = "pass"
	}
	tcp := func(proto string) bool { return proto == "tcp" || proto == "6" }
	loopback := func(i iface) bool { return !i.negated && isLoopback(i.name) }
	for _, h := range slices.Concat(r.from, r.to) {
		if h.special != "" {
			r.need(h.special)
		}
	}
	switch {
	case r.in == "out":
		return action + " out (connections are filtered where they come in)"
	case len(r.protos) > 0 && !slices.ContainsFunc(r.protos, tcp):
		return "proto " + strings.Join(r.protos, ", ") + " (only TCP is filtered)"
	case r.condition != "":
		return r.condition + "; the rule is left out, as it would match more without"
	case r.source:
		return "ports of the client; the rule is left out, as it would match more without"
	case len(r.on) > 0 && !slices.ContainsFunc(r.on, func(i iface) bool { return !loopback(i) }):
		return "a rule on the loopback interface, which is left alone"
	}
	return ""
}

// noteLacks notes what a rule loses.
func (im *importer) noteLacks(b *block, r *filterRule) {
	for _, what := range r.lacks {
		im.lack(b, what)
	}
	others := slices.DeleteFunc(slices.Clone(r.protos), func(s string) bool { return s == "tcp" || s == "6" })
	switch {
	case len(others) > 0:
		im.lack(b, "proto "+strings.Join(others, ", ")+" (only TCP is filtered)")
	case len(r.protos) == 0 && !r.pass:
		im.lack(b, "block of protocols other than tcp")
	}
	if r.in == "" {
		im.lack(b, "the part of the rule for what goes out")
	}
	if strings.HasPrefix(r.policy, "return-icmp") {
		im.lack(b, r.policy+" (a reset instead)")
	}
	if r.track != "" && !r.tracksSources() {
		im.lack(b, "source-track without a limit")
	}
	if r.overload != "" && !r.has("max_src_conn") && !r.has("max_src_conn_rate") {
		im.lack(b, "overload without max-src-conn or max-src-conn-rate; it puts nobody into <"+r.overload+">")
		r.overload, r.flush = "", ""
	}
	if strings.Contains(r.label, "$nr") {
		im.lack(b, "$nr in a label (a name does not change with the place of its rule)")
	}
	for _, i := range r.on {
		if isLoopback(i.name) && !i.negated {
			im.lack(b, "on "+i.name+" (the loopback interface is left alone)")
		}
		im.noteGroup(b, i)
	}
}

// noteGroup notes the name of a group of interfaces: those of pf's interfaces end in a
// number.
func (im *importer) noteGroup(b *block, i iface) {
	if last := i.name[len(i.name)-1]; !isLoopback(i.name) && (last < '0' || last > '9') {
		im.lack(b, i.name+" as a group of interfaces; name each of them")
	}
}

// isLoopback says whether that is the loopback interface, of which Linux has one.
func isLoopback(name string) bool {
	rest, found := strings.CutPrefix(name, "lo")
	return found && strings.Trim(rest, "0123456789") == ""
}

// has says whether the rule has a limit, by nfqfw's word for it.
func (t *tracking) has(key string) bool {
	return slices.ContainsFunc(t.limits, func(e entry) bool { return e.key == key })
}

// tracksSources says whether the rule limits what a source has.
func (t *tracking) tracksSources() bool {
	return slices.ContainsFunc(t.limits, func(e entry) bool { return e.key != "max" })
}

// sourceTrack is what pf counts a source by, also where the rule does not say it. pf
// refuses "global" with all limits but max-src-states, and nfqfw does not.
func (t *tracking) sourceTrack() string {
	ofRule := t.has("max_src_conn") || t.has("max_src_conn_rate") || t.has("max_src_nodes")
	if t.track == "rule" || t.track != "global" && ofRule {
		return "rule"
	}
	return "global"
}

// entries are the keys of a rule behind its ports, in the order of the documentation.
func (im *importer) entries(r *filterRule) (list []entry) {
	if !r.pass {
		return []entry{{"refuse", im.refusal(r.policy)}}
	}
	state := "keep"
	if r.synproxy {
		state = "synproxy"
	}
	list = append(list, entry{"state", state})
	for _, key := range []string{"max", "max_src_conn", "max_src_conn_rate", "max_src_states", "max_src_nodes"} {
		for _, e := range r.limits {
			if e.key == key {
				list = append(list, e)
			}
		}
	}
	if r.tracksSources() {
		list = append(list, entry{"source_track", r.sourceTrack()})
	}
	if len(r.limits) > 0 && im.failPolicy != "" {
		list = append(list, entry{"refuse", im.refusal(im.failPolicy)})
	}
	if r.overload != "" {
		list = append(list, entry{"overload", r.overload})
	}
	if r.flush != "" {
		list = append(list, entry{"flush", r.flush})
	}
	if len(r.lifetimes) > 0 {
		list = append(list, entry{"timeouts", r.lifetimes})
	}
	return list
}

// refusal is nfqfw's word for a policy.
func (im *importer) refusal(policy string) string {
	if policy == "" {
		policy = im.blockPolicy
	}
	if policy == "drop" {
		return "drop"
	}
	return "reset"
}
