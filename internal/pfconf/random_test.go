package pfconf

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
	"nfqfw/rules"
)

// TestRandomRulesets has random rulesets do what pf would do with them: a slow model goes
// through every combination of the elements of every list, as pf expands them.
func TestRandomRulesets(t *testing.T) {
	w := world{seedtest.Rand(t)}
	wins, tried := 0, 0
	for range 400 {
		list := make([]pfRule, 1+w.IntN(6))
		text := tableText
		for i := range list {
			list[i] = w.rule()
			text += list[i].text() + "\n"
		}
		r, err := Import([]byte(text))
		if err != nil && strings.Contains(err.Error(), "of IP") {
			continue // a rule that pf refuses too
		}
		if strings.Contains(fmt.Sprint(r, err), "tables at both ends") {
			continue // told to be another rule
		}
		r, c := mustImport(t, text)
		set := rules.New(c.Rules, tables(t, "none", c))
		for range 30 {
			p := w.packet()
			line := 0
			if rule := set.Match(p.in, p.Tuple); rule != nil {
				line = r.places[fmt.Sprint("rule ", rule.Number)] - 1 // the table is the first line
				wins++
			}
			if want := winner(list, p); line != want {
				t.Fatalf("%v in by %q: line %d wins, want %d of\n%s\n%s", p.Tuple, p.in, line+1, want+1, text, r.TOML)
			}
			tried++
		}
	}
	if seedtest.Fixed() && wins < tried/10 {
		t.Errorf("a rule wins for %d of %d connections only", wins, tried)
	}
}

const tableText = "table <t> { 10.0.0.0/30, !10.0.0.1, 2001:db8::/126 }\n"

// inTable is what the table holds.
func inTable(a netip.Addr) bool {
	return within(a, "10.0.0.0/30") && a.String() != "10.0.0.1" || within(a, "2001:db8::/126")
}

func within(a netip.Addr, prefix string) bool { return netip.MustParsePrefix(prefix).Contains(a) }

// item is an element of a list.
type item struct {
	negated bool
	text    string // an interface, "any", "<t>", a prefix, or a port with its relation
}

func (i item) String() string {
	if i.negated {
		return "! " + i.text
	}
	return i.text
}

// pfRule is a rule; an empty list is not written.
type pfRule struct {
	quick               bool
	af                  string
	on, from, to, ports []item
}

func (r pfRule) text() string {
	words := []string{"pass in"}
	add := func(word string, list []item) {
		if len(list) == 1 {
			words = append(words, word, list[0].String())
		} else if len(list) > 1 {
			words = append(words, word, "{", strings.Trim(fmt.Sprint(list), "[]"), "}")
		}
	}
	if r.quick {
		words = append(words, "quick")
	}
	add("on", r.on)
	words = append(words, r.af, "proto tcp")
	add("from", r.from)
	if len(r.to)+len(r.ports) > 0 {
		words = append(words, "to")
	}
	add("", r.to)
	add("port", r.ports)
	return strings.Join(words, " ")
}

// packetIn is a connection and the interface it comes in by, "" for one of this machine.
type packetIn struct {
	in string
	packet.Tuple
}

// winner is the number of the rule that pf chooses, from 1; 0 for none.
func winner(list []pfRule, p packetIn) (last int) {
	for i, r := range list {
		if p.in != "" && r.matches(p) {
			last = i + 1
			if r.quick {
				break
			}
		}
	}
	return last
}

// matches tries each combination as a rule of its own.
func (r pfRule) matches(p packetIn) bool {
	src, dst := p.Src.Netip(), p.Dst.Netip()
	af := versionOf(src)
	for _, on := range orAny(r.on) {
		for _, from := range orAny(r.from) {
			for _, to := range orAny(r.to) {
				for _, port := range orAny(r.ports) {
					versions := []string{r.af, from.version(), to.version()}
					if on.holdsInterface(p.in) && from.holds(src) && to.holds(dst) && port.holdsPort(int(p.DstPort)) && all(versions, af) {
						return true
					}
				}
			}
		}
	}
	return false
}

func orAny(list []item) []item {
	if len(list) == 0 {
		return []item{{text: "any"}}
	}
	return list
}

// all says whether each version of IP that is said is this one.
func all(versions []string, af string) bool {
	for _, v := range versions {
		if v != "" && v != af {
			return false
		}
	}
	return true
}

func versionOf(a netip.Addr) string {
	if a.Is4() {
		return "inet"
	}
	return "inet6"
}

// version is that of the rule that has the element: pf gives it the one of a prefix.
func (i item) version() string {
	if !strings.Contains(i.text, "/") {
		return ""
	}
	return versionOf(netip.MustParsePrefix(i.text).Addr())
}

func (i item) holdsInterface(in string) bool {
	return i.text == "any" || (i.text == in) != i.negated
}

func (i item) holds(a netip.Addr) bool {
	switch i.text {
	case "any":
		return true
	case "<t>":
		return inTable(a) != i.negated
	}
	return within(a, i.text) != i.negated
}

func (i item) holdsPort(port int) bool {
	var a, b int
	switch n, _ := fmt.Sscanf(i.text, "%d <> %d", &a, &b); {
	case i.text == "any":
		return true
	case n == 2:
		return port < a || port > b
	}
	if n, _ := fmt.Sscanf(i.text, "%d >< %d", &a, &b); n == 2 {
		return port > a && port < b
	}
	if n, _ := fmt.Sscanf(i.text, "%d:%d", &a, &b); n == 2 {
		return port >= a && port <= b
	}
	var op string
	if _, err := fmt.Sscan(i.text, &op, &a); err != nil {
		panic(err)
	}
	return map[string]bool{
		"=": port == a, "!=": port != a, "<": port < a, "<=": port <= a, ">": port > a, ">=": port >= a,
	}[op]
}

// world makes random rules in a world so small that they meet.
type world struct{ *rand.Rand }

func (w world) rule() pfRule {
	return pfRule{
		quick: w.IntN(4) == 0, af: []string{"", "", "", "inet", "inet6"}[w.IntN(5)],
		on: w.items(w.device), from: w.items(w.host), to: w.items(w.host), ports: w.items(w.port),
	}
}

// items makes up to three elements, or none.
func (w world) items(one func() item) (list []item) {
	for range max(0, w.IntN(6)-2) {
		list = append(list, one())
	}
	return list
}

func (w world) device() item {
	return item{w.IntN(4) == 0, []string{"em0", "em1", "em2"}[w.IntN(3)]}
}

func (w world) host() item {
	switch i := (item{negated: w.IntN(4) == 0}); w.IntN(6) {
	case 0:
		return item{text: "any"}
	case 1:
		i.text = "<t>"
		return i
	case 2:
		i.text = fmt.Sprintf("2001:db8::%d/%d", w.IntN(4), 125+w.IntN(4))
		return i
	default:
		i.text = fmt.Sprintf("10.0.0.%d/%d", w.IntN(4), 29+w.IntN(4))
		return i
	}
}

func (w world) port() item {
	a, b := 1+w.IntN(6), 1+w.IntN(6)
	switch w.IntN(5) {
	case 0:
		return item{text: fmt.Sprintf("%d >< %d", min(a, b), max(a, b))}
	case 1:
		return item{text: fmt.Sprintf("%d <> %d", min(a, b), max(a, b))}
	case 2:
		return item{text: fmt.Sprintf("%d:%d", min(a, b), max(a, b))}
	}
	return item{text: fmt.Sprintf("%s %d", []string{"=", "!=", "<", "<=", ">", ">="}[w.IntN(6)], a)}
}

func (w world) packet() packetIn {
	address := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
	if w.IntN(3) == 0 {
		address = func(n int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n)) }
	}
	return packetIn{[]string{"em0", "em1", "em2", "em3", ""}[w.IntN(5)], packet.Tuple{
		Src: packet.AddrFrom(address(w.IntN(6))), SrcPort: 40000,
		Dst: packet.AddrFrom(address(w.IntN(6))), DstPort: uint16(1 + w.IntN(8)),
	}}
}
