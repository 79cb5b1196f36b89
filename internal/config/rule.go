package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"

	"nfqfw/rules"
)

// rule is a rule, what it says of its timeouts, and where it stands.
type rule struct {
	rules.Rule
	timeouts timeouts
	at       section
}

// readRules reads all [[rule]].
func readRules(sections []section) []rule {
	names := newNames(sections)
	list := make([]rule, len(sections))
	for i, s := range sections {
		n := i + 1
		if name, ok := s.table.values["name"].(string); ok && checkName(name) == nil {
			s.place = fmt.Sprintf("%s (%q)", s.place, name)
		}
		list[i] = readRule(s, n, names)
	}
	return list
}

func readRule(s section, n int, names names) rule {
	r := rule{Rule: rules.Rule{Number: n, SourcePrefixV4: 32, SourcePrefixV6: 64}, at: s}
	s.read(slices.Concat(matchFields(s, &r), stateFields(&r), limitFields(s, &r)))
	var err error
	if r.Name, err = names.of(n); err != nil {
		s.fail("name", err)
	}
	if r.Action == rules.Block {
		refuseOnBlock(s, &r)
		defaultRefuse(s, &r.Rule)
		return r
	}
	if r.Backlog > 0 && r.State != rules.Adaptive {
		s.fail("backlog", errors.New(`has a meaning with state = "adaptive" only; remove the key`))
	}
	checkLimits(s)
	return r
}

// matchFields are the keys that say what a rule is about, and how it refuses.
func matchFields(s section, r *rule) []field {
	return []field{
		{key: "name", value: text(checkName)},
		{key: "action", value: word(&r.Action, rules.Words[rules.Action]())},
		{key: "on", value: interfaces(r)},
		{key: "from", value: s.addresses(&r.From)},
		{key: "to", value: s.addresses(&r.To)},
		{key: "port", value: list(&r.Ports, `a list of ports (such as ["http", 443, "8000-8010"])`, portRange)},
		{key: "quick", value: boolean(&r.Quick)},
		{key: "refuse", value: word(&r.Refuse, rules.Words[rules.Refuse]())},
		{key: "enforce", value: func(v any) error {
			enforce := true
			err := boolean(&enforce)(v)
			r.CountOnly = !enforce
			return err
		}},
	}
}

// stateFields are the keys that say how a rule keeps states. None of them, nor of
// limitFields, has a meaning on a block rule.
func stateFields(r *rule) []field {
	return []field{
		{key: "state", value: word(&r.State, rules.Words[rules.State]())},
		{key: "backlog", value: number(&r.Backlog, 1, math.MaxInt32)},
		{key: "timeouts", sub: func(s section) { r.timeouts = readRuleTimeouts(s) }},
	}
}

func refuseOnBlock(s section, r *rule) {
	fields := append(stateFields(r), limitFields(s, r)...)
	for _, name := range s.table.names() {
		if slices.ContainsFunc(fields, func(f field) bool { return f.key == name }) {
			s.fail(name, errors.New(`contradicts action = "block": what is blocked has no state; remove the key`))
		}
	}
}

// interfaces reads "on": names, or names with "!" for any other interface.
func interfaces(r *rule) func(any) error {
	return func(v any) error {
		var names []string
		err := list(&names, `a list of interfaces (such as ["eth0"])`, interfaceName)(v)
		for _, name := range names {
			if other, negated := strings.CutPrefix(name, "!"); negated {
				r.NotOn = append(r.NotOn, other)
			} else {
				r.On = append(r.On, name)
			}
		}
		if len(r.On) > 0 && len(r.NotOn) > 0 {
			return errors.Join(err, errors.New("names interfaces with ! beside others; the others are enough"))
		}
		return err
	}
}

// interfaceName reads an element of "on". "!lo" is every interface there can be, and
// leaves out what this machine begins.
func interfaceName(v any) (string, error) {
	name, ok := v.(string)
	rest := strings.TrimPrefix(name, "!")
	switch {
	case !ok:
		return "", wrongType(v, "the name of an interface")
	case name == "lo":
		return "", errors.New(`"lo": the loopback interface is left alone, no rule can be on it`)
	case strings.HasSuffix(name, "+") || strings.HasSuffix(name, "*"):
		return "", fmt.Errorf("%s: patterns are not supported; name each interface", shown(name))
	case !isInterfaceName(rest):
		return "", fmt.Errorf("%s is not the name of an interface (1-15 letters, digits and signs)", shown(name))
	}
	return name, nil
}

// isInterfaceName is the kernel's dev_valid_name, less what iptables-restore
// would take for something else.
func isInterfaceName(name string) bool {
	if name == "" || len(name) > 15 || name == "." || name == ".." {
		return false
	}
	odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:'"\!`, r) }
	return !strings.ContainsFunc(name, odd)
}

const maxName = 63

// checkName keeps rule names fit for a line of a log.
func checkName(name string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == '"' || r == unicode.ReplacementChar }
	switch {
	case name == "":
		return errors.New("is empty; leave the key out for a name by number")
	case len(name) > maxName:
		return fmt.Errorf("has %d bytes; at most %d are allowed", len(name), maxName)
	case strings.ContainsFunc(name, odd) || strings.TrimSpace(name) != name:
		return fmt.Errorf("%s holds a control character or a quote, or begins or ends with a space", shown(name))
	}
	return nil
}

// names are the names of the rules: those in the file, and for a rule without
// one a name by its number that no other rule has.
type names struct {
	given []string       // by rule, from 0; empty: none, or not a good one
	first map[string]int // the first rule of a name, from 1
}

func newNames(sections []section) names {
	n := names{given: make([]string, len(sections)), first: make(map[string]int)}
	for i, s := range sections {
		name, ok := s.table.values["name"].(string)
		if !ok || checkName(name) != nil {
			continue
		}
		n.given[i] = name
		if _, taken := n.first[name]; !taken {
			n.first[name] = i + 1
		}
	}
	return n
}

// of names rule i, from 1.
func (n names) of(i int) (string, error) {
	name := n.given[i-1]
	if name == "" {
		return n.byNumber(i), nil
	}
	if first := n.first[name]; first != i {
		return name, fmt.Errorf("rule %d has that name already", first)
	}
	return name, nil
}

func (n names) byNumber(i int) string {
	name := fmt.Sprintf("rule%d", i)
	for n.first[name] != 0 {
		name += "'"
	}
	return name
}
