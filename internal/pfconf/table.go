package pfconf

import (
	"fmt"

	"nfqfw/rules"
)

// table translates a definition.
func (im *importer) table(p *parser, b *block) {
	t := &table{name: p.tableRef(), from: b.from, line: b.from.first}
	for !p.atEnd() {
		switch {
		case p.accept("persist"): // a table stays in any case
		case p.accept("const"):
			im.lack(b, "const")
		case p.accept("counters"):
			im.lack(b, "counters")
		case p.accept("file"):
			im.tableFile(p, b, t)
		case p.peek().is("{"):
			im.tableEntries(p, b, t)
		default:
			p.unexpected("an attribute of a table")
		}
	}
	im.remark(b, p)
	t.comments = b.comments
	if im.defined[t.name] && len(p.errs) == 0 {
		p.fail("table", "<%s> is defined twice", t.name)
	}
	im.defined[t.name] = true
	im.tables = append(im.tables, t)
}

func (im *importer) tableFile(p *parser, b *block, t *table) {
	file := p.text("the name of a file")
	if t.file != "" {
		im.lack(b, fmt.Sprintf("a second file (%s)", shown(file)))
		return
	}
	t.file = file
}

func (im *importer) tableEntries(p *parser, b *block, t *table) {
	if len(p.tokens) > p.pos+1 && p.tokens[p.pos+1].is("}") {
		p.pos += 2 // empty, which no other list may be
		return
	}
	p.list(func() {
		h := p.host()
		switch {
		case h.special != "":
			im.lack(b, h.special+" in a table")
		case h.table != "" || h.any:
			p.fail("table", "%s cannot be in a table", shown(h.text()))
		case h.name != "":
			im.lack(b, fmt.Sprintf("the addresses of %s; write them into entries", h.name))
		default:
			sign := ""
			if h.negated {
				sign = "!"
			}
			im.spend(p, len(h.prefixes)-1)
			for _, prefix := range h.prefixes {
				t.entries = append(t.entries, sign+rules.PrefixText(prefix))
			}
		}
	})
}

// use is that a rule names tables. Those that are not defined pf makes, and so do we.
func (im *importer) use(b *block, hosts []host) {
	for _, h := range hosts {
		name := h.tableName()
		if name == "" || im.used[name] {
			continue
		}
		im.used[name] = true
		t := &table{name: name, line: b.from.first}
		if h.name != "" {
			a := Addresses{Line: t.line, Table: name, Of: h.name}
			t.comments = append(t.comments, a.Note().Text)
			im.addresses = append(im.addresses, a)
		}
		im.uses = append(im.uses, t)
	}
}

// spend counts elements beyond those that stand in the file, and ends the file when
// there are too many.
func (im *importer) spend(p *parser, n int) bool {
	if im.elements += max(n, 0); im.elements <= maxElements {
		return true
	}
	p.fail("list", "the lists of this file expand to more than %d elements", maxElements)
	p.pos = len(p.tokens) + 1
	im.lexer.macros, im.lexer.pos = nil, len(im.lexer.file)
	return false
}
