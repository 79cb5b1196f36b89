package pfconf

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"nfqfw/rules"
)

// ports are those an element of "port" means: values of nfqfw's "port", a number, a
// name or a range. None of them is all ports.
type ports struct {
	values []any
	text   string // as a label shows it
}

// port reads an element of "port".
func (p *parser) port() (list ports) {
	op := p.acceptAny("=", "!=", "<", "<=", ">", ">=")
	first := p.text("a port")
	if op != "" {
		n := p.portNumber(first)
		return ports{compare(op, first, n), strings.TrimPrefix(op+" ", "= ") + first}
	}
	if op = p.acceptAny("<>", "><"); op != "" {
		last := p.text("a port")
		return ports{between(op, p.portNumber(first), p.portNumber(last)), first + " " + op + " " + last}
	}
	from, to, isRange := strings.Cut(first, ":")
	if !isRange {
		return ports{compare("=", first, p.portNumber(first)), first}
	}
	a, b := p.portNumber(from), math.MaxUint16
	if to != "*" {
		b = p.portNumber(to)
	}
	if a > b {
		p.fail("port", "%s is a range from its end to its start", shown(first))
	}
	return ports{interval(a, b), first}
}

// portNumber is the number of a port that may be written by name.
func (p *parser) portNumber(s string) int {
	if n, ok := rules.ServicePort(s); ok {
		return int(n)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case s == "": // an error of grammar, told already
	case err == nil && n > math.MaxUint16 || err != nil && isNumeric(s):
		p.fail("port", "%s is not a port (0-65535)", cut(s))
	case err != nil:
		p.unknown = append(p.unknown, errorAt(p.line, "port", "%s is not a service that is known here; write its number", shown(s)))
	}
	return int(min(n, math.MaxUint16))
}

// compare are the ports that stand in that relation to one.
func compare(op, text string, n int) []any {
	switch op {
	case "!=":
		return append(interval(0, n-1), interval(n+1, math.MaxUint16)...)
	case "<":
		return interval(0, n-1)
	case "<=":
		return interval(0, n)
	case ">":
		return interval(n+1, math.MaxUint16)
	case ">=":
		return interval(n, math.MaxUint16)
	}
	if _, named := rules.ServicePort(text); named {
		return []any{text}
	}
	return interval(n, n)
}

// between are the ports inside two, or outside, both left out.
func between(op string, a, b int) []any {
	if op == "><" {
		return interval(a+1, b-1)
	}
	return append(interval(0, a-1), interval(b+1, math.MaxUint16)...)
}

// interval is a range of ports, both ends included, and nothing if it is empty. No
// connection is to port 0.
func interval(a, b int) []any {
	a, b = max(a, 1), min(b, math.MaxUint16)
	switch {
	case a > b:
		return nil
	case a == b:
		return []any{int64(a)}
	}
	return []any{fmt.Sprintf("%d-%d", a, b)}
}
