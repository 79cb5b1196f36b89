package rules

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
)

// Text is the rule as pfctl -s rules prints it, with the timeouts that are its own,
// by name, if any; nil is none. What pf has no word for has the configuration's.
func (r *Rule) Text(timeouts iter.Seq2[string, float64]) string {
	words := []string{r.actionText(), "in"}
	if r.Quick {
		words = append(words, "quick")
	}
	if len(r.On) > 0 {
		words = append(words, "on", listText(r.On))
	} else if len(r.NotOn) > 0 {
		words = append(words, "on !", listText(r.NotOn))
	}
	words = append(words, "proto tcp", r.scopeText())
	if r.Action == Pass {
		words = append(words, r.stateText(timeouts))
	}
	if r.CountOnly {
		words = append(words, "enforce false")
	}
	return strings.Join(append(words, fmt.Sprintf(`label "%s"`, r.Name)), " ")
}

func (r *Rule) actionText() string {
	switch {
	case r.Action == Pass:
		return "pass"
	case r.Refuse == RefuseReset:
		return "block return-rst"
	}
	return "block drop"
}

func (r *Rule) scopeText() string {
	from, to := r.From.text(), r.To.text()
	if from == "any" && to == "any" && len(r.Ports) == 0 {
		return "all"
	}
	text := "from " + from + " to " + to
	if len(r.Ports) > 0 {
		text += " port " + portsText(r.Ports)
	}
	return text
}

func (r *Rule) stateText(timeouts iter.Seq2[string, float64]) string {
	text := "flags S/SA " + r.State.String() + " state"
	options := r.options()
	if timeouts != nil {
		for name, value := range timeouts {
			options.add(name + " " + decimal(value))
		}
	}
	if len(options) > 0 {
		text += " (" + strings.Join(options, ", ") + ")"
	}
	return text
}

// options are those of the state, in pf's order; those that pf has not come after the
// ones that they belong to.
func (r *Rule) options() (l optionList) {
	l.number("backlog", r.Backlog)
	l.number("max", r.Max)
	if r.tracksSources() {
		l.add("source-track " + r.SourceTrack.String())
		l.otherNumber("source-prefix-v4", r.SourcePrefixV4, 32)
		l.otherNumber("source-prefix-v6", r.SourcePrefixV6, 64)
	}
	l.number("max-src-states", r.MaxSrcStates)
	l.number("max-src-conn", r.MaxSrcConn)
	if r.Count != CountServerEstablished {
		l.add("count " + r.Count.String())
	}
	if r.MaxSrcConnRate != (Rate{}) {
		l.add(fmt.Sprintf("max-src-conn-rate %d/%s", r.MaxSrcConnRate.Count, decimal(r.MaxSrcConnRate.Window.Seconds())))
	}
	l.number("max-src-nodes", r.MaxSrcNodes)
	if r.Refuse != RefuseReset {
		l.add("refuse " + r.Refuse.String())
	}
	if r.Overload != "" {
		l.add("overload <" + r.Overload + ">" + flushText(r.Flush))
	}
	return l
}

// tracksSources says whether the rule limits what a source has.
func (r *Rule) tracksSources() bool {
	return r.MaxSrcConn > 0 || r.MaxSrcConnRate != (Rate{}) || r.MaxSrcStates > 0 || r.MaxSrcNodes > 0
}

type optionList []string

func (l *optionList) add(option string) { *l = append(*l, option) }

// number adds a limit, unless there is none.
func (l *optionList) number(name string, limit uint32) {
	if limit > 0 {
		l.add(fmt.Sprintf("%s %d", name, limit))
	}
}

// otherNumber adds what is not the usual.
func (l *optionList) otherNumber(name string, n, usual uint8) {
	if n != usual {
		l.number(name, uint32(n))
	}
}

func flushText(f Flush) string {
	switch f {
	case FlushRule:
		return " flush"
	case FlushGlobal:
		return " flush global"
	}
	return ""
}

// decimal has a point only if it needs one.
func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// text is "any" for every address.
func (a Addresses) text() string {
	var words []string
	for _, p := range a.Prefixes {
		words = append(words, sign(p.Negated)+PrefixText(p.Prefix))
	}
	for _, t := range a.Tables {
		words = append(words, sign(t.Negated)+"<"+t.Name+">")
	}
	if four, six := slices.Index(words, "0.0.0.0/0"), slices.Index(words, "::/0"); four >= 0 && six >= 0 {
		words[four] = "any"
		words = slices.Delete(words, six, six+1)
	}
	if len(words) == 0 {
		return "any"
	}
	return listText(words)
}

func sign(negated bool) string {
	if negated {
		return "! "
	}
	return ""
}

// portsText has names for services. A single port has pf's sign of equality.
func portsText(ranges []PortRange) string {
	words := make([]string, len(ranges))
	for i, r := range ranges {
		words[i] = portName(r.First)
		if r.Last != r.First {
			words[i] = fmt.Sprintf("%d:%d", r.First, r.Last)
		}
	}
	if len(ranges) == 1 && ranges[0].First == ranges[0].Last {
		return "= " + words[0]
	}
	return listText(words)
}

func portName(port uint16) string {
	if name, ok := ServiceName(port); ok {
		return name
	}
	return strconv.Itoa(int(port))
}

// listText has braces around more than one word.
func listText(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "{ " + strings.Join(words, ", ") + " }"
}
