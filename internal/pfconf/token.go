package pfconf

import "strings"

// kind is what a token is.
type kind uint8

const (
	end    kind = iota // of the statement
	word               // a keyword, a name, a number, an address
	quoted             // a string in quotes, which is no keyword
	sign               // ( ) { } < > ! = / , - and what pf joins of them
)

type token struct {
	kind kind
	text string
	line int
}

// is says whether a token is that sign or that keyword.
func (t token) is(text string) bool {
	return t.text == text && (t.kind == word || t.kind == sign)
}

// String is the token as an error shows it.
func (t token) String() string {
	if t.kind == end {
		return "the end of the line"
	}
	return shown(t.text)
}

// signs are pf's, longer ones before those they begin with. A word that is a single -
// is one too.
var signs = []string{"<>", "<=", "><", ">=", "!=", "->", "<", ">", "!", "=", "(", ")", "{", "}", "/", ","}

// inWord says whether a character can be part of a word.
func inWord(c byte) bool {
	return c > ' ' && c <= '~' && !strings.ContainsRune(`(){}<>!=/#,"'$\`, rune(c))
}

// join writes tokens as text again, near to how they were.
func join(tokens []token) string {
	var b strings.Builder
	for i, t := range tokens {
		if i > 0 && !tokens[i-1].isOneOf("(/<!") && !t.isOneOf("),/>") {
			b.WriteByte(' ')
		}
		if t.kind == quoted {
			b.WriteString(`"` + t.text + `"`)
		} else {
			b.WriteString(t.text)
		}
	}
	return b.String()
}

// isOneOf says whether a token is one of these signs.
func (t token) isOneOf(signs string) bool { return t.kind == sign && strings.Contains(signs, t.text) }
