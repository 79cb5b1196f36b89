package pfconf

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// preamble says what is the same for every file.
const preamble = `# Translated from pf's grammar. What a line of the source has become stands under it.
# Interfaces have the names they had there.
#
# Not as in pf, unless a rule says otherwise:
# - max_src_conn counts a connection until its server has closed; pf, until the state
#   is purged (count = "states").
# - Over a limit the client is reset; in pf it hears nothing (refuse = "drop").
# - IPv6 clients count by /64; in pf, by address (source_prefix_v6 = 128).
# - max does not shorten timeouts; in pf it does from 60% on (adaptive.start).
# - SYN cookies are sent under pressure, for rules with synproxy; in pf, only if the
#   file says so, and for every port ([syncookies] mode = "never").
# - on = ["!lo"] is any interface, without the connections this machine begins.
`

// writer writes the document, and notes where the source of each part is.
type writer struct {
	strings.Builder
	source []string // lines
	places map[string]int
}

func (w *writer) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// result writes everything.
func (im *importer) result(source string) *Result {
	w := &writer{source: strings.Split(source, "\n"), places: make(map[string]int)}
	w.WriteString(preamble)
	for _, b := range im.head {
		w.block(b)
	}
	w.section("timeouts", im.timeouts)
	w.section("limits", im.limits)
	w.section("syncookies", im.cookies)
	for _, t := range im.allTables() {
		w.table(t)
	}
	body := im.withSkipped()
	var list []*rule
	for _, b := range body {
		list = append(list, b.rules...)
	}
	nameRules(list)
	for i, r := range list {
		w.places[fmt.Sprintf("rule %d", i+1)] = r.line
	}
	for _, b := range body {
		w.block(b)
	}
	return &Result{TOML: []byte(w.String()), Notes: im.sortedNotes(), Addresses: im.addresses, places: w.places}
}

// allTables are those that are defined, and those that rules name only.
func (im *importer) allTables() []*table {
	all := slices.Clone(im.tables)
	for _, t := range im.uses {
		if !im.defined[t.name] {
			all = append(all, t)
		}
	}
	return all
}

// withSkipped is the body behind a rule for the interfaces of "set skip on".
func (im *importer) withSkipped() []block {
	if len(im.skipped) == 0 {
		return im.body
	}
	skip := &rule{line: im.skippedFrom[0].first, quick: true, label: "skip", entries: []entry{{"state", "keep"}}}
	skip.combination[on].elements = im.skipped
	first := block{from: im.skippedFrom[0], rules: []*rule{skip}}
	return append([]block{first}, im.body...)
}

func (im *importer) sortedNotes() []Note {
	slices.SortStableFunc(im.notes, func(a, b Note) int { return cmp.Compare(a.Line, b.Line) })
	return im.notes
}

// from repeats the lines of a statement, with their numbers.
func (w *writer) from(s statement) {
	if s.first == 0 {
		return
	}
	for n := s.first; n <= s.last && n <= len(w.source); n++ {
		if n-s.first == maxSourceLines {
			w.line("# %d-%d: ...", n, s.last)
			return
		}
		w.line("# %d: %s", n, commentText(strings.TrimRight(w.source[n-1], " \t\r")))
	}
}

// commentText is a text without what TOML allows in no comment.
func commentText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func (w *writer) comments(list []string) {
	for _, text := range list {
		w.line("# %s", commentText(text))
	}
}

func (w *writer) block(b block) {
	w.line("")
	w.from(b.from)
	w.comments(b.comments)
	for i, r := range b.rules {
		if i > 0 {
			w.line("")
		}
		w.rule(r)
	}
}

func (w *writer) section(name string, settings []setting) {
	if len(settings) == 0 {
		return
	}
	w.line("\n[%s]", name)
	w.places[name] = settings[0].from.first // for a key that is not said
	said := 0
	for _, s := range settings {
		if s.from.first != said {
			w.from(s.from)
			said = s.from.first
		}
		w.entry(s.entry)
		w.places[name+": "+s.key] = s.from.first
	}
}

func (w *writer) table(t *table) {
	w.line("")
	w.from(t.from)
	w.comments(t.comments)
	w.line("[table.%s]", tomlKey(t.name))
	w.places["table."+t.name] = t.line
	w.places["table: "+t.name] = t.line
	if len(t.entries) > 0 {
		w.entry(entry{"entries", t.entries})
	}
	if t.file != "" {
		w.entry(entry{"file", t.file})
	}
}

// rule writes [[rule]]. What it says nothing of is any.
func (w *writer) rule(r *rule) {
	w.line("[[rule]]")
	w.entry(entry{"name", r.name})
	action := "pass"
	if r.block {
		action = "block"
	}
	w.entry(entry{"action", action})
	if r.quick {
		w.entry(entry{"quick", true})
	}
	for i, key := range [...]string{on: "on", from: "from", to: "to", port: "port"} {
		if c := r.combination[i]; !c.isAny() {
			w.entry(entry{key, c.elements})
		}
	}
	for _, e := range r.entries {
		w.entry(e)
	}
}

func (w *writer) entry(e entry) { w.line("%s = %s", tomlKey(e.key), tomlValue(e.value)) }
