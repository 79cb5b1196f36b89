package pfconf

import "slices"

// choice is what a rule says of one thing, an interface, an end or a port: one element
// of its list, or all of them together.
type choice struct {
	elements []any  // as nfqfw's configuration has them; none is any
	family   family // of all of them, if it is one
	text     string // as a label shows it
}

// interfaces are the choices of "on". Without it a rule is about what comes in by any
// interface. The loopback interface is left alone.
func (r *filterRule) interfaces() (list []choice) {
	for _, i := range r.on {
		switch {
		case isLoopback(i.name) && i.negated:
			list = append(list, choice{elements: []any{anyInterface}, text: "!" + i.name})
		case isLoopback(i.name):
		case i.negated:
			list = append(list, choice{elements: []any{"!" + i.name}, text: "!" + i.name})
		default:
			list = append(list, choice{elements: []any{i.name}, text: i.name})
		}
	}
	if len(list) == 0 {
		return []choice{{elements: []any{anyInterface}, text: "any"}}
	}
	return list
}

// anyInterface holds what comes in, and not what this machine begins itself.
const anyInterface = "!lo"

// hostChoices are the choices of "from" or "to", of one version of IP if the rule says
// so.
func hostChoices(hosts []host, f family) (list []choice) {
	for _, h := range hosts {
		if own := h.family(); f != unspecified && own != unspecified && own != f {
			continue
		}
		list = append(list, choice{elements: h.elements(), family: h.family(), text: h.text()})
	}
	if len(hosts) == 0 {
		return []choice{{text: "any"}}
	}
	return list
}

// portChoices are the choices of "port".
func (r *filterRule) portChoices() (list []choice) {
	for _, p := range r.ports {
		if len(p.values) > 0 {
			list = append(list, choice{elements: p.values, text: p.text})
		}
	}
	if r.anyPort {
		return []choice{{text: "any"}}
	}
	return list
}

// together is the choice that holds what all of them hold.
func together(list []choice) choice {
	if len(list) == 1 {
		return list[0]
	}
	all := choice{text: "any"}
	for i, c := range list {
		if len(c.elements) == 0 {
			return choice{text: "any"}
		}
		all.elements = append(all.elements, c.elements...)
		if i == 0 {
			all.family = c.family
		} else if c.family != all.family {
			all.family = unspecified
		}
	}
	return all
}

// isAny says whether it holds everything.
func (c choice) isAny() bool { return len(c.elements) == 0 }

// takesOut says whether it names nothing but tables that it takes out.
func (c choice) takesOut() bool {
	return !c.isAny() && !slices.ContainsFunc(c.elements, func(e any) bool { return e.(string)[0] != '!' })
}

// within limits a choice to a version of IP, if that can be said.
func (c *choice) within(f family) bool {
	if !c.isAny() && !c.takesOut() {
		return false
	}
	c.elements = append([]any{everything(f)}, c.elements...)
	return true
}
