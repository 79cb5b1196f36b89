package integration

import (
	"testing"
)

func TestRequireIPTables(t *testing.T) {
	Require(t, Root, Namespaces, IPTables)
}

// recorder is a TB that remembers how a test would have ended.
type recorder struct {
	TB
	got string
}

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.got += "fatal" }
func (r *recorder) Skipf(string, ...any)  { r.got += "skip" }

func TestRequireMissing(t *testing.T) {
	for ci, want := range map[string]string{"": "skip", "true": "fatal"} {
		t.Setenv("CI", ci)
		r := &recorder{}
		Require(r, Program("no-such-program"))
		if r.got != want {
			t.Errorf("CI=%q: %q, want %q", ci, r.got, want)
		}
	}
}
