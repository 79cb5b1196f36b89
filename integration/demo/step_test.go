package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// width is how long a line may be; labels take twelve columns of it.
const width = 120 - 12

func TestPlanIsWellFormed(t *testing.T) {
	steps := plan([]string{"synproxy", "keep"})
	seen := make(map[[2]string]bool)
	for i, s := range steps {
		if s.title == "" || len(s.does) == 0 || len(s.expect) == 0 || s.run == nil {
			t.Errorf("step %d (%q): incomplete", i+1, s.title)
		}
		for _, line := range slices.Concat([]string{s.title}, s.does, s.expect) {
			if utf8.RuneCountInString(line) > width || strings.TrimSpace(line) != line || line == "" {
				t.Errorf("step %d: %q: empty, padded or too long", i+1, line)
			}
		}
		if key := [2]string{s.policy, s.title}; seen[key] {
			t.Errorf("step %d: %q twice", i+1, key)
		} else {
			seen[key] = true
		}
		if s.last != (i == len(steps)-1) {
			t.Errorf("step %d (%q): last is %v", i+1, s.title, s.last)
		}
	}
}

// Every policy has the same steps, in one piece.
func TestPlanOfOnePolicy(t *testing.T) {
	one, both := plan([]string{"keep"}), plan([]string{"synproxy", "keep"})
	if len(both)-len(one) != len(protected) {
		t.Errorf("%d steps, with both policies %d", len(one), len(both))
	}
	for _, s := range one {
		if s.policy == "synproxy" {
			t.Errorf("%q was not asked for", s.title)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
		err  string
	}{
		{"", []string{"synproxy", "keep"}, ""},
		{"-policy both", []string{"synproxy", "keep"}, ""},
		{"-policy keep -nfqfw x", []string{"keep"}, ""},
		{"-policy adaptive", nil, `-policy "adaptive": must be`},
		{"more", nil, `argument "more"`},
		{"-colour", nil, "not defined"},
	} {
		got, err := parse(strings.Fields(c.args), io.Discard)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: error %v, want %q", c.args, err, c.err)
		}
		if !slices.Equal(got.policies, c.want) {
			t.Errorf("%q: %v, want %v", c.args, got.policies, c.want)
		}
	}
}
