package config

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"nfqfw/rules"
)

// Table is a named set of addresses that rules refer to as "<name>".
type Table struct {
	Name    string
	Entries []rules.Prefix // no prefix is there with ! and without
	File    string         // absolute path of a file with more entries, one a line; empty: none
	TTL     time.Duration  // how long what is added while the firewall runs stays; 0: for ever
}

// MaxTableName is how many octets the name of a table has at most, as in pf.
const MaxTableName = 31

// MaxTTL is the longest a kernel set keeps an entry for less than ever (ipset(8)).
const MaxTTL = 2147483 * time.Second

// tableNames are the names of the file's tables, known before anything else is read.
type tableNames []string

// namesOfTables are those in the section "table".
func namesOfTables(root table) tableNames {
	values, _ := root.values["table"].(map[string]any)
	return slices.Sorted(maps.Keys(values))
}

// known says what is wrong with the name of a table that the file uses.
func (t tableNames) known(name string) error {
	if slices.Contains(t, name) {
		return nil
	}
	if err := checkTableName(name); err != nil {
		return err
	}
	return fmt.Errorf("there is no [table.%s]%s", name, DidYouMean(name, t))
}

// defaultRefuse has a block rule say nothing to sources that only tables name, unless
// it says how it refuses: the kernel drops them by itself.
func defaultRefuse(s section, r *rules.Rule) {
	_, said := s.table.values["refuse"]
	if !said && len(r.From.Tables) > 0 && len(r.From.Prefixes) == 0 {
		r.Refuse = rules.RefuseDrop
	}
}

// checkTableName keeps names fit for a command line and the name of a kernel set.
func checkTableName(name string) error {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
	}
	switch {
	case name == "":
		return errors.New("the name of a table is empty")
	case len(name) > MaxTableName:
		return fmt.Errorf("the name of a table has at most %d octets, this one has %d", MaxTableName, len(name))
	case strings.ContainsFunc(name, odd) || name[0] == '-':
		return errors.New("the name of a table has letters, digits, and the signs _ . and -, which is not the first")
	}
	return nil
}

// readTables reads all [table.NAME], in the order of the file.
func readTables(s section) []Table {
	var list []Table
	for _, name := range s.table.names() {
		if err := checkTableName(name); err != nil {
			s.fail(name, err)
			continue
		}
		inner, ok := s.table.sub(name)
		if !ok {
			s.fail(name, fmt.Errorf("%w: write [table.%s]", wrongType(s.table.values[name], "a table"), name))
			continue
		}
		one := s
		one.place, one.table = s.place+"."+name, inner
		list = append(list, readTable(one, name))
	}
	return list
}

func readTable(s section, name string) Table {
	t := Table{Name: name}
	s.read([]field{
		{key: "entries", value: tableEntries(&t.Entries)},
		{key: "file", value: text(func(p string) error {
			t.File = p
			return checkTablePath(p)
		})},
		{key: "ttl", value: func(v any) (err error) {
			t.TTL, err = ttl(v)
			return err
		}},
	})
	return t
}

// tableEntries reads a list that may be empty: a table can be filled later.
func tableEntries(dst *[]rules.Prefix) func(any) error {
	return func(v any) error {
		if elements, ok := v.([]any); ok && len(elements) == 0 {
			return nil
		}
		if err := list(dst, `a list of prefixes (such as ["192.0.2.0/24", "!192.0.2.1"])`, tableEntry)(v); err != nil {
			return err
		}
		return contradiction(*dst)
	}
}

func tableEntry(v any) (rules.Prefix, error) {
	s, ok := v.(string)
	if !ok {
		return rules.Prefix{}, wrongType(v, "a prefix in quotes")
	}
	return ParseEntry(s)
}

// ParseEntry reads an entry of a table, an address or a prefix, with ! before it if
// the table does not hold it.
func ParseEntry(s string) (rules.Prefix, error) {
	rest, negated := strings.CutPrefix(s, "!")
	rest = strings.TrimSpace(rest)
	if rest == "any" {
		return rules.Prefix{}, fmt.Errorf("%s: in a table, any is written as 0.0.0.0/0 and ::/0", shown(s))
	}
	p, err := parsePrefix(rest)
	if err != nil {
		return rules.Prefix{}, fmt.Errorf("%s %w", shown(s), err)
	}
	return rules.Prefix{Prefix: p, Negated: negated}, nil
}

func checkTablePath(p string) error {
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%s is not an absolute path", shown(p))
	case strings.ContainsRune(p, 0):
		return errors.New("a path cannot hold a NUL byte")
	}
	return nil
}

// ttl reads a duration, or 0 for ever.
func ttl(v any) (time.Duration, error) {
	if v == int64(0) || v == "0" || v == "0s" {
		return 0, nil
	}
	d, err := duration(v)
	switch {
	case errors.Is(err, errLongDuration) || d > MaxTTL:
		return 0, fmt.Errorf("the kernel keeps a table's entry for %d seconds (%s) at most; 0 is for ever", MaxTTL/time.Second, MaxTTL)
	case err == nil && d < time.Second:
		return 0, errors.New("a ttl must be 1s or more; 0 is for ever")
	}
	return d, err
}
