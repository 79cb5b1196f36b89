package pfconf

import (
	"errors"
	"fmt"
	"strings"
)

// Result is what a ruleset has become.
type Result struct {
	TOML  []byte // nfqfw's configuration
	Notes []Note // what has no equivalent in it, in the order of the source

	// Addresses are what is to be filled in.
	Addresses []Addresses

	places map[string]int // line of the source, by where the configuration has it
}

// Import translates a ruleset, or gives all its errors, one a line, in the order of
// the source.
func Import(src []byte) (*Result, error) {
	im := importer{lexer: newLexer(string(src)), blockPolicy: "drop", defined: make(map[string]bool), used: make(map[string]bool)}
	for {
		s, ok := im.lexer.statement()
		if !ok {
			break
		}
		im.errs = append(im.errs, im.lexer.errs...)
		switch {
		case !im.lexer.broken && len(im.lexer.errs) == 0:
			im.statement(s)
		case len(s.tokens) > 1 && s.tokens[1].is("="):
			im.lexer.values[s.tokens[0].text] = nil
		}
	}
	if len(im.errs) > 0 {
		return nil, errors.Join(im.errs...)
	}
	return im.result(string(src)), nil
}

// AtSource puts before a message about the configuration the line of the source that it
// is about, if it is about one. The message begins with its place, as those of
// config.Parse do.
func (r *Result) AtSource(message string) string {
	section, rest, _ := strings.Cut(message, ": ")
	key, _, _ := strings.Cut(rest, ": ")
	rule, _, _ := strings.Cut(section, " (")
	for _, place := range []string{section + ": " + key, section, rule} {
		if line := r.places[place]; line > 0 {
			return fmt.Sprintf("line %d: %s", line, message)
		}
	}
	return message
}

// importer goes through a file.
type importer struct {
	lexer *lexer
	document
	errs []error

	blockPolicy string // drop or return, for the rules that follow
	failPolicy  string // drop or return; empty: the file does not say
	elements    int    // of lists so far, see maxElements

	skipped     []any // interfaces of "set skip on"
	skippedFrom []statement
	defined     map[string]bool // tables
	used        map[string]bool // tables that rules name
	uses        []*table        // the same, in the order of their first use
}

// statement translates a statement by its first word.
func (im *importer) statement(s statement) {
	p := &parser{tokens: s.tokens, line: s.first}
	b := &block{from: s}
	switch first := p.next(); {
	case first.kind == word && p.peek().is("="):
		im.macro(p, b, first.text)
	case first.is("pass") || first.is("block"):
		im.filter(p, b, first.is("pass"))
	case first.is("set"):
		im.option(p, b)
	case first.is("table"):
		im.table(p, b)
	case first.kind == word && unsupported[first.text] != "":
		im.lack(b, unsupported[first.text])
		im.body = append(im.body, *b)
	default:
		p.fail(shown(first.text), "is not a statement of pf.conf")
	}
	im.errs = append(im.errs, p.errs...)
}

// unsupported are the other statements, by their first word.
var unsupported = map[string]string{
	"match":           "match (a rule passes or blocks)",
	"nat":             "nat (translation is the kernel's: iptables -t nat)",
	"rdr":             "rdr (translation is the kernel's, and nfqfw sees the address and port before it)",
	"binat":           "binat (translation is the kernel's: iptables -t nat)",
	"no":              "no nat, no rdr (translation is the kernel's)",
	"scrub":           "scrub (packets are not rewritten)",
	"antispoof":       "antispoof (the kernel does it: net.ipv4.conf.all.rp_filter = 1)",
	"anchor":          "anchor; its rules are left out",
	"nat-anchor":      "nat-anchor; its rules are left out",
	"rdr-anchor":      "rdr-anchor; its rules are left out",
	"binat-anchor":    "binat-anchor; its rules are left out",
	"dummynet-anchor": "dummynet-anchor; its rules are left out",
	"load":            "load anchor; its rules are left out",
	"include":         "include; import that file by itself",
	"altq":            "altq (queueing is the kernel's: tc)",
	"queue":           "queue (queueing is the kernel's: tc)",
	"state":           "state limiter (max bounds the states of a rule)",
	"source":          "source limiter (max_src_states bounds the states of a source)",
	"ether":           "ether (connections are filtered, and no frames)",
}

// macro reads a definition: words and texts in quotes, put together with spaces.
func (im *importer) macro(p *parser, b *block, name string) {
	p.expect("=")
	parts := []string{p.textOrNone(`a value`)}
	for !p.atEnd() {
		parts = append(parts, p.textOrNone(`a value in quotes`))
	}
	im.lexer.values[name] = nil
	if len(p.errs) == 0 {
		value := strings.Join(parts, " ")
		im.lexer.values[name] = &value
	}
	im.head = append(im.head, *b)
}
