package pfconf

// statement is what pf reads at once: the tokens of a line, or of several where they
// are joined or a brace is open.
type statement struct {
	tokens      []token
	first, last int // lines of the source
}

// statement reads the next one that has tokens, or errors, which it gives in l.errs.
// At the end of the file it gives none.
func (l *lexer) statement() (s statement, ok bool) {
	l.errs, l.broken = nil, false
	for len(s.tokens) == 0 && len(l.errs) == 0 && !l.broken {
		if l.blanks(); l.atEnd() {
			return statement{}, false
		}
		s.first = l.line
		s.last = l.collect(&s.tokens)
	}
	return s, true
}

// collect reads the tokens up to the end of the statement, and tells its line.
func (l *lexer) collect(tokens *[]token) (last int) {
	depth := 0
	var opened source // behind the first brace that is open
	var errs int      // until there
	for {
		t := l.next()
		switch {
		case t.kind == end && depth > 0 && (l.atEnd() || l.strict):
			l.errs = l.errs[:errs] // what follows is read again
			l.fail(opened.line, "list", "{ is not closed")
			l.endLine(opened)
			return t.line
		case t.kind == end && depth == 0:
			return t.line
		case t.kind == end:
			continue
		case t.is("{"):
			if depth++; depth == 1 {
				opened, errs = l.source, len(l.errs)
			}
		case t.is("}"):
			depth = max(depth-1, 0)
		}
		*tokens = append(*tokens, t)
	}
}
