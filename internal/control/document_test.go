package control

import (
	"encoding"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// documents are the tables of docs/json.md, each by the heading above it or the title in
// it, and the type that it describes.
var documents = map[string]any{
	"nfqfw states": struct {
		States []State `json:"states"`
	}{},
	"nfqfw sources": struct {
		Sources []Source `json:"sources"`
	}{},
	"nfqfw rules": struct {
		Rules []Rule `json:"rules"`
	}{},
	"nfqfw info": Info{}, "nfqfw timeouts": Timeouts{}, "nfqfw memory": Memory{}, "nfqfw refusals": Refusals{},
	"tables": struct {
		Tables []Table `json:"tables"`
	}{},
	"entries of a table": struct {
		Table []TableEntry `json:"table"`
	}{},
	"what was done to a table": TableDone{}, "arguments of table": TableArgs{}, "arguments of takeover": TakeoverArgs{},
	"nfqfw kill": Killed{}, "nfqfw reload": Reloaded{},
	"request": Request{}, "answer": answer{},
	"arguments of states": StatesArgs{}, "arguments of rules": RulesArgs{},
	"arguments of refusals": RefusalsArgs{}, "arguments of kill": KillArgs{},
}

// Every field of every document is in the documentation, and no other.
func TestDocumentation(t *testing.T) {
	described := tables(t, "../../docs/json.md")
	for title, value := range documents {
		w := walk{}
		w.fields("", reflect.TypeOf(value))
		got := described[title]
		delete(described, title)
		for _, path := range w.paths {
			if !slices.Contains(got, path) {
				t.Errorf("%s: %s is not described", title, path)
			}
		}
		for _, path := range got {
			if !slices.Contains(w.paths, path) {
				t.Errorf("%s: there is no %s", title, path)
			}
		}
	}
	for title := range described {
		t.Errorf("%s: there is no such document", title)
	}
}

// Every type that has names for JSON is part of a document.
func TestEveryTypeIsInADocument(t *testing.T) {
	w := walk{}
	for _, value := range documents {
		w.fields("", reflect.TypeOf(value))
	}
	for _, name := range jsonTypes(t) {
		if !slices.Contains(w.types, name) {
			t.Errorf("%s is not in any document of TestDocumentation", name)
		}
	}
}

// A walk lists what a type has in JSON.
type walk struct {
	paths []string // a.b, a[].b
	types []string // names of all structs
}

func (w *walk) fields(prefix string, t reflect.Type) {
	w.types = append(w.types, t.Name())
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			w.fields(prefix, f.Type)
			continue
		}
		w.value(prefix+name, f.Type)
	}
}

func (w *walk) value(path string, t reflect.Type) {
	switch {
	case t.Kind() == reflect.Pointer:
		w.value(path, t.Elem())
	case t == reflect.TypeFor[json.RawMessage]():
		w.paths = append(w.paths, path)
	case t.Kind() == reflect.Slice:
		w.value(path+"[]", t.Elem())
	case t.Kind() == reflect.Struct && !t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		w.fields(path+".", t)
	default:
		w.paths = append(w.paths, path)
	}
}

var (
	headingLine = regexp.MustCompile(`^#+ (.*)`)
	titleLine   = regexp.MustCompile(`^\| (.*?) ?\| \|$`)
	fieldLine   = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

// tables are the fields that each table of a document names.
func tables(t *testing.T, file string) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	list := make(map[string][]string)
	title := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if m := headingLine.FindStringSubmatch(line); m != nil {
			title = m[1]
		} else if m := titleLine.FindStringSubmatch(line); m != nil && m[1] != "" && !strings.HasPrefix(m[1], "`") {
			title = m[1]
		} else if m := fieldLine.FindStringSubmatch(line); m != nil {
			list[title] = append(list[title], m[1])
		}
	}
	return list
}

// jsonTypes are the names of the package's structs with a tag for JSON.
func jsonTypes(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	must(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		must(t, err)
		ast.Inspect(syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
				return f.Tag != nil && strings.Contains(f.Tag.Value, "json:")
			}) {
				names = append(names, spec.Name.Name)
			}
			return true
		})
	}
	return names
}
