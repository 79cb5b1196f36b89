package pfconf

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"nfqfw/internal/config"
)

// FuzzParse has no file end in a panic, or in a text that is no TOML, or in more text
// than its length and the limits allow.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.conf", "testdata/error/*.conf"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		r, err := Import(src)
		if err != nil {
			checkErrors(t, err.Error(), strings.Count(string(src), "\n")+1)
			return
		}
		if most := 100*len(src) + 8*maxMacroText + 200*maxElements; len(r.TOML) > most {
			t.Errorf("%d octets from %d", len(r.TOML), len(src))
		}
		checkTranslation(t, r)
	})
}

// checkErrors has each error begin with a line of the source.
func checkErrors(t *testing.T, text string, lines int) {
	for line := range strings.Lines(text) {
		number, what, _ := strings.Cut(strings.TrimPrefix(line, "line "), ": ")
		if n, err := strconv.Atoi(number); err != nil || n < 1 || n > lines || what == "" {
			t.Errorf("%q does not begin with its line", line)
		}
	}
}

// checkTranslation has the configuration be in order, or wrong in what it says and not
// in how it is written.
func checkTranslation(t *testing.T, r *Result) {
	c, err := config.Parse(r.TOML)
	if err == nil {
		names := make(map[string]bool)
		for _, rule := range c.Rules {
			names[rule.Name] = true
		}
		if len(names) != len(c.Rules) {
			t.Errorf("%d rules have %d names", len(c.Rules), len(names))
		}
		return
	}
	for line := range strings.Lines(err.Error()) {
		if at := r.AtSource(line); at == line {
			t.Errorf("%q has no line in the source:\n%s", line, r.TOML)
		}
		if strings.Contains(line, ": name: ") || strings.Contains(line, "unknown key") || strings.Contains(line, "want ") {
			t.Errorf("%q is an error of the translation:\n%s", line, r.TOML)
		}
	}
}
