// Package nfqfw_test holds the project to its structure: which package may
// import what, and that each says what it is for.
package nfqfw_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "nfqfw"

// pure packages do no I/O, start no goroutine, read no clock, log nothing and
// import nobody else's code. What they may import of ours stands beside them.
var pure = map[string][]string{
	"internal/seqnum":    {},
	"internal/packet":    {"internal/seqnum"},
	"conntrack":          {"internal/packet", "internal/seqnum"},
	"synproxy":           {"internal/packet", "internal/seqnum"},
	"synproxy/cookie":    {"internal/packet", "internal/seqnum"},
	"rules":              {"internal/packet"},
	"internal/grant":     {"internal/packet"},
	"internal/syncookie": {"internal/packet", "internal/seqnum", "synproxy", "synproxy/cookie"},
	"internal/refusal":   {"internal/packet"},
	"internal/pfconf":    {"rules"},
	"internal/engine":    {"conntrack", "internal/grant", "internal/syncookie", "synproxy", "synproxy/cookie", "rules", "internal/packet", "internal/seqnum"},
}

// impure are the standard packages by which a pure package could reach the
// world. "time" is allowed for its durations; see TestPureCallsNoClock.
var impure = []string{
	"os", "os/exec", "os/signal", "net", "net/http", "syscall", "log", "log/slog", "io/ioutil", "context",
	"math/rand", "math/rand/v2", "crypto/rand", "runtime", "unsafe",
}

// edges are the only importers of a library, and why.
var edges = map[string]struct{ only, why string }{
	"github.com/google/gopacket":     {"internal/wire", "the decoder is to be exchangeable"},
	"github.com/florianl/go-nfqueue": {"internal/nfq", "the queue is to be exchangeable"},
	"github.com/BurntSushi/toml":     {"internal/config", "the file format is config's alone"},
	"github.com/ti-mo/conntrack":     {"internal/offload", "the kernel's conntrack table is offload's alone"},
	"github.com/spf13/cobra":         {"cmd/nfqfw", "the command line is the command's alone"},
	"github.com/gaissmai/bart":       {"internal/table", "the trie is to be exchangeable"},
	"github.com/vishvananda/netlink": {"integration internal/route", "only the lab makes interfaces, and routes are asked for in one place"},
	"github.com/coreos/go-systemd":   {"internal/daemon", "the service manager is the daemon's affair alone"},
	"github.com/cilium/ebpf":         {"internal/bpf", "the kernel's programs are bpf's alone"},
	"os/exec":                        {"internal/hooks internal/ipset internal/netnstest integration", "nothing else starts programs"},
}

// below lists what must not import what: arrows point down only.
var below = map[string][]string{
	"internal/daemon":  {"internal/engine", "internal/bpf", "internal/nfq", "internal/inject", "internal/offload", "internal/hooks", "internal/control", "internal/config", "internal/wire", "internal/backlog", "internal/route", "internal/table", "internal/ipset"},
	"internal/engine":  {"internal/wire", "internal/bpf", "internal/nfq", "internal/inject", "internal/offload", "internal/hooks", "internal/control", "internal/config", "internal/backlog", "internal/table", "internal/ipset"},
	"internal/control": {"internal/nfq", "internal/hooks", "internal/config", "internal/table", "internal/ipset"},
	"internal/hooks":   {"internal/bpf", "internal/ipset", "internal/table", "internal/config"},
	"internal/ipset":   {"internal/table", "internal/config"},
	"cmd/nfqfw":        {"internal/daemon", "internal/config", "internal/control", "integration"},
}

type file struct {
	dir, path string
	test      bool
	syntax    *ast.File
}

func (f file) imports() []string {
	var list []string
	for _, spec := range f.syntax.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		list = append(list, path)
	}
	return list
}

// files parses every Go file of the project.
func files(t *testing.T) []file {
	t.Helper()
	var list []file
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		list = append(list, file{filepath.ToSlash(filepath.Dir(path)), path, strings.HasSuffix(path, "_test.go"), syntax})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 {
		t.Fatalf("only %d files found: the test looks in the wrong place", len(list))
	}
	return list
}

func TestPurePackages(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range files(t) {
		allowed, isPure := pure[f.dir]
		if !isPure || f.test {
			continue
		}
		seen[f.dir] = true
		for _, path := range f.imports() {
			own, isOwn := strings.CutPrefix(path, module+"/")
			switch {
			case isOwn && !slices.Contains(allowed, own):
				t.Errorf("%s imports %s: %s may import only %v", f.path, path, f.dir, allowed)
			case !isOwn && strings.Contains(strings.Split(path, "/")[0], "."):
				t.Errorf("%s imports %s: pure packages use nobody else's code", f.path, path)
			case slices.Contains(impure, path):
				t.Errorf("%s imports %s: pure packages reach nothing outside", f.path, path)
			}
		}
	}
	for dir := range pure {
		if !seen[dir] {
			t.Errorf("%s: no such package", dir)
		}
	}
}

// TestPureCallsNoClock finds clocks and goroutines, which imports do not show.
func TestPureCallsNoClock(t *testing.T) {
	clock := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	for _, f := range files(t) {
		if _, isPure := pure[f.dir]; !isPure || f.test {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", f.path)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, n.Sel.Name) {
					t.Errorf("%s calls time.%s: time is a parameter", f.path, n.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestEdges(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, path := range f.imports() {
			for library, e := range edges {
				isIt := path == library || strings.HasPrefix(path, library+"/")
				if isIt && !slices.ContainsFunc(strings.Fields(e.only), func(dir string) bool {
					return f.dir == dir || strings.HasPrefix(f.dir, dir+"/")
				}) {
					t.Errorf("%s imports %s: only %s may: %s", f.path, path, e.only, e.why)
				}
			}
		}
	}
}

// TestArrows holds that nothing imports what stands above it.
func TestArrows(t *testing.T) {
	for _, f := range files(t) {
		for _, path := range f.imports() {
			own, _ := strings.CutPrefix(path, module+"/")
			if slices.Contains(below[own], f.dir) && !f.test {
				t.Errorf("%s imports %s, which stands above it", f.path, path)
			}
		}
	}
}

// TestNoShell holds that programs are started by lists of arguments: nothing in the
// code names a shell, of which each has other ideas of what a word is.
func TestNoShell(t *testing.T) {
	shells := []string{"sh", "ash", "bash", "dash", "ksh", "zsh", "busybox", "env", "eval"}
	starts := 0
	for _, f := range files(t) {
		if f.test || !slices.Contains(f.imports(), "os/exec") {
			continue
		}
		starts++
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				if slices.Contains(shells, filepath.Base(text)) {
					t.Errorf("%s: %s: programs are started without a shell", f.path, lit.Value)
				}
			}
			return true
		})
	}
	if starts < 3 {
		t.Errorf("only %d files start programs: the test looks in the wrong place", starts)
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	documented := make(map[string]bool)
	for _, f := range files(t) {
		if !f.test {
			documented[f.dir] = documented[f.dir] || f.syntax.Doc.Text() != ""
		}
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment", dir)
		}
	}
}

func TestEveryExportedNameIsDocumented(t *testing.T) {
	for _, f := range files(t) {
		if f.test {
			continue
		}
		for _, d := range f.syntax.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && !ofUnexported(d) && d.Doc.Text() == "" {
					t.Errorf("%s: %s has no comment", f.path, d.Name.Name)
				}
			case *ast.GenDecl:
				undocumented(t, f, d)
			}
		}
	}
}

func undocumented(t *testing.T, f file, d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && d.Doc.Text() == "" && s.Doc.Text() == "" {
				t.Errorf("%s: %s has no comment", f.path, s.Name.Name)
			}
		case *ast.ValueSpec:
			if s.Names[0].IsExported() && d.Doc.Text() == "" && s.Doc.Text() == "" && s.Comment.Text() == "" {
				t.Errorf("%s: %s has no comment", f.path, s.Names[0].Name)
			}
		}
	}
}

// ofUnexported says whether a function is a method nobody outside can name.
func ofUnexported(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return false
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && !name.IsExported()
}
