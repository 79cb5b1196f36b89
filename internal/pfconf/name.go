package pfconf

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxName is how many octets the name of a rule has at most.
const maxName = 63

// nameRules gives each rule a name of its own, from what it says and not from its place,
// so that it keeps its counts when others come and go: its label, or what it is about,
// and more of that if another rule has the name.
func nameRules(list []*rule) {
	labels := make(map[string]int)
	for _, r := range list {
		r.label = nameOf(r.label)
		labels[r.label]++
	}
	n := names{taken: make(map[string]bool), last: make(map[string]int)}
	for label, times := range labels {
		n.taken[label] = times == 1 && label != ""
	}
	for _, r := range list {
		if r.label != "" && labels[r.label] == 1 {
			r.name = r.label
			continue
		}
		r.name = n.free(r)
		n.taken[r.name] = true
	}
}

// names are those that are given.
type names struct {
	taken map[string]bool
	last  map[string]int // the last number behind a name that several rules would have
}

// free is the shortest of a rule's names that no other has.
func (n *names) free(r *rule) string {
	name := nameOf(r.label + "-" + r.short(port))
	if r.label == "" {
		name = r.shortName()
	}
	for _, more := range []int{from, to, on} {
		if n.taken[name] && !r.isPlain(more) {
			name = nameOf(name + "-" + r.short(more))
		}
	}
	if !n.taken[name] {
		return name
	}
	base := cutName(name, maxName-len("-1000000"))
	for i := max(n.last[base], 1) + 1; ; i++ {
		if name = fmt.Sprintf("%s-%d", base, i); !n.taken[name] {
			n.last[base] = i
			return name
		}
	}
}

// shortName is what the rule is about first of all: a port, or an end, or an interface.
func (r *rule) shortName() string {
	name := "pass"
	if r.block {
		name = "block"
	}
	switch {
	case !r.isPlain(port) && !r.block:
		name = r.short(port)
	case !r.isPlain(port):
		name += "-" + r.short(port)
	case !r.isPlain(from):
		name += "-" + r.short(from)
	case !r.isPlain(to):
		name += "-" + r.short(to)
	case !r.isPlain(on):
		name += "-" + r.short(on)
	}
	return nameOf(name)
}

// isPlain says whether the rule says nothing of a thing.
func (r *rule) isPlain(i int) bool { return r.telling(i) == nil }

// telling is the first element that says something; nil if none does.
func (r *rule) telling(i int) any {
	all := []any{anyInterface, everything(inet), everything(inet6)}
	for _, e := range r.combination[i].elements {
		if !slices.Contains(all, e) {
			return e
		}
	}
	return nil
}

// short is what the rule says of a thing, in a word.
func (r *rule) short(i int) string {
	e := r.telling(i)
	if e == nil {
		return "any"
	}
	text := strings.Trim(strings.Replace(fmt.Sprint(e), "!", "not-", 1), "<>")
	if i == port && text[0] <= '9' { // a number alone would look like the number of a rule
		text = "port-" + text
	}
	if more := len(r.combination[i].elements) - 1; more > 0 {
		text += fmt.Sprintf("+%d", more)
	}
	return text
}

// nameOf makes a text fit to be a name.
func nameOf(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == '"' || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	return cutName(s, maxName)
}

func cutName(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return strings.TrimSpace(s)
}
