package pfconf

// parser reads the tokens of a statement. An error of grammar ends it: nothing follows
// then. Others, as a port that is none, do not.
type parser struct {
	tokens []token
	pos    int
	line   int // of the statement
	depth  int // of lists
	errs   []error
	// unknown are names of services that are not known here. They are errors only if
	// the statement is translated.
	unknown []error
	remarks []string // notes about what was read
}

// peek is the next token.
func (p *parser) peek() token {
	if p.pos >= len(p.tokens) {
		return token{kind: end, line: p.line}
	}
	return p.tokens[p.pos]
}

func (p *parser) atEnd() bool { return p.peek().kind == end }

// next is the next token, and passes over it.
func (p *parser) next() token {
	t := p.peek()
	if t.kind != end {
		p.pos++
	}
	return t
}

// accept passes over the next token if it is that word or sign.
func (p *parser) accept(text string) bool {
	if !p.peek().is(text) {
		return false
	}
	p.pos++
	return true
}

// acceptAny is accept of the first of several; empty if it is none.
func (p *parser) acceptAny(texts ...string) string {
	for _, text := range texts {
		if p.accept(text) {
			return text
		}
	}
	return ""
}

// expect is accept, or an error.
func (p *parser) expect(text string) bool {
	if p.accept(text) {
		return true
	}
	p.unexpected(text)
	return false
}

// text is a word, in quotes or not.
func (p *parser) text(want string) string {
	if t := p.peek(); t.kind == quoted && t.text == "" {
		p.unexpected(want)
	}
	return p.textOrNone(want)
}

// textOrNone is text, or quotes with nothing in them.
func (p *parser) textOrNone(want string) string {
	if t := p.peek(); t.kind != word && t.kind != quoted {
		p.unexpected(want)
		return ""
	}
	return p.next().text
}

// unexpected is the error of grammar.
func (p *parser) unexpected(want string) {
	if p.pos <= len(p.tokens) {
		t := p.peek()
		p.errs = append(p.errs, errorAt(t.line, "syntax", "want %s, got %s", want, t))
	}
	p.pos = len(p.tokens) + 1
}

// fail adds an error that leaves the grammar whole.
func (p *parser) fail(what, format string, args ...any) {
	p.errs = append(p.errs, errorAt(p.line, what, format, args...))
}

// list reads one item, or several in braces, with commas or without. Lists may be in
// lists, as macros bring them in.
func (p *parser) list(item func()) {
	if !p.accept("{") {
		item()
		return
	}
	if p.depth++; p.depth > maxDepth {
		p.fail("list", "more than %d lists in each other", maxDepth)
		p.pos = len(p.tokens) + 1
	}
	if p.accept(","); p.peek().is("}") {
		p.unexpected("an element of the list")
	}
	for !p.accept("}") {
		if p.atEnd() {
			p.unexpected("}")
			return
		}
		p.list(item)
		p.accept(",")
	}
	p.depth--
}

// group is what stands in parentheses, read by item, with commas or without.
func (p *parser) group(item func()) {
	if !p.expect("(") {
		return
	}
	for !p.accept(")") {
		if p.atEnd() {
			p.unexpected(")")
			return
		}
		item()
		p.accept(",")
	}
}
