package pfconf

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// lexer makes tokens of a file.
type lexer struct {
	source
	// macros by name; nil for one whose definition was wrong.
	values map[string]*string
	// strict says that a quote or a brace was found that is never closed: from there
	// on they are to be closed in their line, so that the rest of the file is read, and
	// read once.
	strict bool
	errs   []error // of the statement being read
	broken bool    // it uses a macro whose definition was wrong
}

func newLexer(file string) *lexer {
	return &lexer{source: source{file: file, line: 1}, values: make(map[string]*string)}
}

func (l *lexer) fail(line int, what, format string, args ...any) {
	l.errs = append(l.errs, errorAt(line, what, format, args...))
}

// next is the next token; at the end of a line, one of the kind end.
func (l *lexer) next() token {
	for {
		l.blanks()
		c, line := l.peek(), l.line
		switch {
		case l.atEnd():
			return token{kind: end, line: line}
		case c == '\n':
			l.skip()
			return token{kind: end, line: line}
		case c == '$':
			l.skip()
			l.expand(line)
		case c == '"' || c == '\'':
			l.skip()
			return token{kind: quoted, text: l.quote(c, line), line: line}
		case inWord(c):
			return l.word(line)
		default:
			if text := l.sign(c); text != "" {
				return token{kind: sign, text: text, line: line}
			}
			others := l.name(func(c byte) bool { return c >= utf8.RuneSelf })
			l.fail(line, shown(string([]byte{c})+others), "has no place in pf's grammar")
		}
	}
}

// blanks passes over spaces and comments.
func (l *lexer) blanks() {
	comment := false
	for {
		c := l.peek()
		comment = comment || c == '#'
		blank := c == ' ' || c == '\t' || c == '\r' || comment
		if !blank || c == '\n' || l.atEnd() {
			return
		}
		l.skip()
	}
}

// name reads the letters of a word, or of the name of a macro.
func (l *lexer) name(in func(byte) bool) string {
	var b strings.Builder
	for c := l.peek(); in(c); c = l.peek() {
		b.WriteByte(c)
		l.skip()
	}
	return b.String()
}

// word reads a word, or a sign that begins with -.
func (l *lexer) word(line int) token {
	text := l.name(inWord)
	switch {
	case text != "-":
		return token{kind: word, text: text, line: line}
	case l.peek() == '>':
		l.skip()
		return token{kind: sign, text: "->", line: line}
	}
	return token{kind: sign, text: "-", line: line}
}

// sign reads the longest sign; empty if there is none that begins so.
func (l *lexer) sign(c byte) string {
	l.skip()
	if two := string([]byte{c, l.peek()}); slices.Contains(signs, two) {
		l.skip()
		return two
	}
	if one := string([]byte{c}); slices.Contains(signs, one) {
		return one
	}
	return ""
}

// expand puts in the text of the macro whose name follows.
func (l *lexer) expand(line int) {
	name := l.name(inMacroName)
	value, known := l.values[name]
	switch {
	case !known:
		l.fail(line, "macro "+shown(name), "is not defined")
	case value == nil:
		l.broken = true
	case !l.insert(*value):
		l.fail(line, "macro "+shown(name), "the macros of this file expand to more than %d KiB", maxMacroText>>10)
		l.macros, l.pos = nil, len(l.file)
	}
}

func inMacroName(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// quote reads to the end of a text in quotes, which may go on over lines.
func (l *lexer) quote(q byte, line int) string {
	var b strings.Builder
	begin := l.source
	for c, ok := l.take(); ok && !(c == '\n' && l.strict); c, ok = l.take() {
		switch next := l.ahead(); {
		case c == q:
			return b.String()
		case c == '\\' && (next == q || next == ' ' || next == '\t'):
			l.take()
			b.WriteByte(next)
		case c != '\n' && c != '\r' && !(c == '\\' && next == '\n'):
			b.WriteByte(c)
		}
	}
	l.fail(line, "quote", "is not closed")
	l.endLine(begin)
	return ""
}

// endLine goes back to a place and on to the end of its line.
func (l *lexer) endLine(at source) {
	put := l.put
	l.source, l.strict = at, true
	l.macros, l.put = nil, put
	for l.pos < len(l.file) && l.file[l.pos] != '\n' {
		l.pos++
	}
}
