package main

import (
	"strings"
	"testing"

	"nfqfw/internal/config"
)

func TestLogWarnings(t *testing.T) {
	var b strings.Builder
	logWarnings(newLog(&b, false), "a.toml", &config.Config{Warnings: []string{"rule 1: count: has no effect", "two"}})
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	want := []string{
		`level=WARN msg=configuration file=a.toml warning="rule 1: count: has no effect"`,
		`level=WARN msg=configuration file=a.toml warning=two`,
	}
	if len(lines) != len(want) {
		t.Fatalf("logged %q", lines)
	}
	for i, line := range lines {
		if _, rest, _ := strings.Cut(line, " "); rest != want[i] {
			t.Errorf("line %d: %s, want %s", i+1, rest, want[i])
		}
	}
}
