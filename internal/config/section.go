package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// section is a table being read. Its errors go to errs, with the section's
// place in front.
type section struct {
	place  string // `rule 3 ("web")`; empty for the file itself
	table  table
	tables tableNames
	errs   *[]error

	warnings *[]string
}

// field is a key that a section may have. One of its functions is set, by
// what the key holds, or foreign is.
type field struct {
	key     string
	value   func(any) error // a value; the error may be several, joined
	sub     func(section)   // a table
	each    func([]section) // an array of tables
	foreign string          // the key is pf's, and there is nothing here that it could set: why
}

// read takes the section's keys in the order of the file, each by its field.
func (s section) read(fields []field) {
	for _, name := range s.table.names() {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name })
		if i < 0 {
			s.fail(name, unknownKey(name, fields))
			continue
		}
		s.readField(fields[i])
	}
}

func (s section) readField(f field) {
	v := s.table.values[f.key]
	switch {
	case f.foreign != "":
		s.fail(f.key, fmt.Errorf("sets nothing here: %s; remove the key", f.foreign))
	case f.value != nil:
		if err := f.value(v); err != nil {
			s.fail(f.key, err)
		}
	case f.sub != nil:
		t, ok := s.table.sub(f.key)
		if !ok {
			s.fail(f.key, wrongType(v, "a table"))
			return
		}
		f.sub(s.inner(f.key, t))
	case f.each != nil:
		s.readEach(f, v)
	}
}

func (s section) readEach(f field, v any) {
	list, ok := s.table.elements(f.key)
	if !ok {
		s.fail(f.key, fmt.Errorf("%w: write [[%s]]", wrongType(v, "an array of tables"), f.key))
		return
	}
	inner := make([]section, len(list))
	for i, t := range list {
		inner[i] = s.inner(fmt.Sprintf("%s %d", f.key, i+1), t)
	}
	f.each(inner)
}

// inner is a section inside this one.
func (s section) inner(name string, t table) section {
	s.place, s.table = s.at(name), t
	return s
}

func (s section) at(key string) string {
	if s.place == "" {
		return key
	}
	return s.place + ": " + key
}

// fail adds an error, or each of those that errors.Join joined.
func (s section) fail(key string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			s.fail(key, e)
		}
		return
	}
	*s.errs = append(*s.errs, fmt.Errorf("%s: %w", s.at(shownKey(key)), err))
}

// warn adds a warning about a key that is allowed and does not do what it seems to.
func (s section) warn(key, text string) {
	*s.warnings = append(*s.warnings, s.at(shownKey(key))+": "+text)
}

// has says whether the section has one of the keys, whatever their values.
func (s section) has(keys ...string) bool {
	return slices.ContainsFunc(keys, func(key string) bool {
		_, there := s.table.values[key]
		return there
	})
}

func unknownKey(name string, fields []field) error {
	known := make([]string, len(fields))
	for i, f := range fields {
		known[i] = f.key
	}
	return fmt.Errorf("unknown key%s", DidYouMean(name, known))
}

// shownKey quotes a key that would not be one word of one line.
func shownKey(key string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }
	if key == "" || len(key) > maxShown || strings.ContainsFunc(key, odd) {
		return shown(key)
	}
	return key
}

// maxShown is how many bytes of a text an error repeats.
const maxShown = 80

// shown quotes a text of the file; a long one is cut.
func shown(s string) string {
	if len(s) <= maxShown {
		return strconv.Quote(s)
	}
	return strconv.Quote(strings.ToValidUTF8(s[:maxShown], "")) + "…"
}
