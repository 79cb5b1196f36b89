package pfconf

import "fmt"

// document is nfqfw's configuration, before it is text.
type document struct {
	head                      []block // statements without a place in a section
	timeouts, limits, cookies []setting
	tables                    []*table
	body                      []block // those that stand in the order of the rules
	notes                     []Note
	addresses                 []Addresses
}

// entry is a key and its value: a string, an int64, a bool, a list ([]any) or an inline
// table ([]entry).
type entry struct {
	key   string
	value any
}

// setting is an entry of a section, and where it is said.
type setting struct {
	entry
	from statement
}

// set puts an entry into a section. One of the same key goes: the last one holds.
func set(section []setting, from statement, e entry) []setting {
	for i, old := range section {
		if old.key == e.key {
			section = append(section[:i:i], section[i+1:]...)
			break
		}
	}
	return append(section, setting{e, from})
}

// block is what has become of a statement.
type block struct {
	from     statement
	comments []string
	rules    []*rule
}

// rule is one [[rule]].
type rule struct {
	combination
	line    int // of the source
	block   bool
	quick   bool
	label   string
	name    string
	entries []entry // those that follow the ports
}

// table is one [table.NAME].
type table struct {
	name     string
	from     statement // its definition; no lines if it has none
	line     int       // of the definition, or of the first use
	comments []string
	entries  []any
	file     string
}

// Note is something in the source that has no equivalent, or not the meaning it seems
// to have.
type Note struct {
	Line int // of the source, from 1
	Text string
}

// String is the note with its line.
func (n Note) String() string { return fmt.Sprintf("line %d: %s", n.Line, n.Text) }

// Addresses are those of an interface, or of a host by name, which the ruleset uses and
// a machine has to know. There is a table for them, which has no entries.
type Addresses struct {
	Line  int // of the source, from 1
	Table string
	Of    string // the name, with pf's modifiers: "em0", "em0:network", "self"
}

// Note is what there is to say while the table is empty.
func (a Addresses) Note() Note {
	text := fmt.Sprintf("no equivalent: the addresses of %s; write them into entries of [table.%s]", a.Of, a.Table)
	return Note{a.Line, text}
}

// note adds a comment to a block, and to what the caller of Import is told.
func (d *document) note(b *block, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.comments = append(b.comments, text)
	d.notes = append(d.notes, Note{b.from.first, text})
}

// remark notes what a parser has found.
func (d *document) remark(b *block, p *parser) {
	for _, text := range p.remarks {
		d.note(b, "%s", text)
	}
}

// lack notes what has no equivalent.
func (d *document) lack(b *block, what string) { d.note(b, "no equivalent: %s", what) }
