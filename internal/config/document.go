package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// table is a TOML table whose keys know their order in the file. It is read
// as a map and not into a struct, because the decoder stops at the first value
// of a wrong type, takes "Port" for "port", and does not tell in which element
// of an array of tables it found an unknown key.
type table struct {
	values map[string]any
	paths  [][]string // of the keys, from here, in the order of the file; those of inline tables may be missing
}

// decode parses TOML. Its error gives line and column: the grammar's errors
// are the only ones that have no key.
func decode(data []byte) (table, error) {
	var values map[string]any
	meta, err := toml.Decode(string(data), &values)
	if err != nil {
		return table{}, syntaxError(err)
	}
	keys := meta.Keys()
	paths := make([][]string, len(keys))
	for i, k := range keys {
		paths[i] = k
	}
	return table{values: values, paths: paths}, nil
}

func syntaxError(err error) error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return err
	}
	message := strings.TrimSuffix(strings.Join(strings.Fields(parse.Message), " "), ".")
	return fmt.Errorf("line %d, column %d: %s", parse.Position.Line, max(parse.Position.Col, 1), message)
}

// names are the keys, in the order of the file; where that is unknown, in
// alphabetical order.
func (t table) names() []string {
	first := make(map[string]int, len(t.values))
	for i, p := range t.paths {
		if _, seen := first[p[0]]; !seen {
			first[p[0]] = i
		}
	}
	rank := func(name string) int {
		if i, ok := first[name]; ok {
			return i
		}
		return math.MaxInt
	}
	names := make([]string, 0, len(t.values))
	for name := range t.values {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return names
}

// sub is the table under a key.
func (t table) sub(name string) (table, bool) {
	values, ok := t.values[name].(map[string]any)
	if !ok {
		return table{}, false
	}
	s := table{values: values}
	for _, p := range t.paths {
		if p[0] == name && len(p) > 1 {
			s.paths = append(s.paths, p[1:])
		}
	}
	return s, true
}

// elements are the tables of the array of tables under a key.
func (t table) elements(name string) ([]table, bool) {
	maps, ok := mapsOf(t.values[name])
	if !ok {
		return nil, false
	}
	list := make([]table, len(maps))
	for i, m := range maps {
		list[i].values = m
	}
	i := -1
	for _, p := range t.paths {
		switch {
		case p[0] != name:
		case len(p) == 1: // the head of an element
			i = min(i+1, len(list)-1)
		case i >= 0:
			list[i].paths = append(list[i].paths, p[1:])
		}
	}
	return list, true
}

// mapsOf takes both spellings: [[name]] and name = [{…}, {…}].
func mapsOf(v any) ([]map[string]any, bool) {
	switch v := v.(type) {
	case []map[string]any:
		return v, true
	case []any:
		maps := make([]map[string]any, len(v))
		for i := range v {
			m, ok := v[i].(map[string]any)
			if !ok {
				return nil, false
			}
			maps[i] = m
		}
		return maps, true
	}
	return nil, false
}

// flat joins the keys of nested tables by dots, so that tcp.closed and
// "tcp.closed" are the same. A key that is there twice so keeps the quoted
// value and is told in twice.
func (t table) flat() (f table, twice []string) {
	f.values = make(map[string]any, len(t.values))
	for _, p := range t.paths {
		f.paths = append(f.paths, []string{strings.Join(p, ".")})
	}
	nested := table{values: make(map[string]any)}
	for _, name := range t.names() {
		sub, ok := t.values[name].(map[string]any)
		if !ok || len(sub) == 0 {
			f.values[name] = t.values[name]
			continue
		}
		inner, _ := table{values: sub}.flat()
		for key, v := range inner.values {
			nested.values[name+"."+key] = v
		}
	}
	for _, key := range nested.names() {
		if _, there := f.values[key]; there {
			twice = append(twice, key)
			continue
		}
		f.values[key] = nested.values[key]
	}
	return f, twice
}
