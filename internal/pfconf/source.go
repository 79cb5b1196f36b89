package pfconf

// source gives the characters of a file one by one: lines that end in a backslash are
// joined to the next, also in comments, and the text of macros is put in.
type source struct {
	file   string
	pos    int
	line   int      // of the next character of the file, from 1
	macros []string // what is left of the texts put in, the innermost last
	put    int      // octets put in so far
}

// peek is the next character, lines joined; 0 at the end of the file.
func (s *source) peek() byte {
	if s.ahead(); len(s.macros) == 0 {
		s.joinLines()
	}
	return s.ahead()
}

// joinLines passes over backslashes: with the end of the line that follows, and as
// pf does before anything else.
func (s *source) joinLines() {
	for s.pos < len(s.file) && s.file[s.pos] == '\\' {
		s.pos++
		if s.pos < len(s.file) && s.file[s.pos] == '\r' {
			s.pos++
		}
		if s.pos < len(s.file) && s.file[s.pos] == '\n' {
			s.pos++
			s.line++
		}
	}
}

// skip passes over the character that peek gave.
func (s *source) skip() {
	if n := len(s.macros); n > 0 {
		s.macros[n-1] = s.macros[n-1][1:]
		return
	}
	if s.file[s.pos] == '\n' {
		s.line++
	}
	s.pos++
}

// ahead is the next character as it stands; 0 at the end of the file.
func (s *source) ahead() byte {
	for n := len(s.macros); n > 0 && s.macros[n-1] == ""; n = len(s.macros) {
		s.macros = s.macros[:n-1]
	}
	switch n := len(s.macros); {
	case n > 0:
		return s.macros[n-1][0]
	case s.pos < len(s.file):
		return s.file[s.pos]
	}
	return 0
}

// take is ahead, and passes over it.
func (s *source) take() (c byte, ok bool) {
	c = s.ahead()
	if len(s.macros) == 0 && s.pos == len(s.file) {
		return 0, false
	}
	s.skip()
	return c, true
}

// atEnd says whether nothing follows; peek gives 0 then, as for a NUL of the file.
func (s *source) atEnd() bool { return s.peek() == 0 && s.pos == len(s.file) }

// insert puts in a macro's text at this place, and says whether there was room.
func (s *source) insert(text string) bool {
	s.put += len(text) + 1 // a macro without text is a use too
	if s.put > maxMacroText {
		return false
	}
	s.macros = append(s.macros, text)
	return true
}
