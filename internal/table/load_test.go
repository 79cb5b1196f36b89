package table

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "abusers")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	l := newLab(t, 100, 0)
	path := write(t, "# abusers\n\n192.0.2.1\r\n 203.0.113.0/24   # scanners\n! 203.0.113.7\n2001:db8::/32\n192.0.2.1\n10.9.9.9/8")
	l.reload(100, config.Table{Name: "t", File: path, Entries: prefixes("192.0.2.9", "192.0.2.1")})
	l.lists("10.0.0.0/8 file, 192.0.2.1 file, 192.0.2.9 file, 203.0.113.0/24 file, !203.0.113.7 file, 2001:db8::/32 file")
}

// loadError is what is said of a file in a table with one entry and room for five; the
// file's name is FILE.
func loadError(path string) string {
	_, err := Load(time.Second, []config.Table{{Name: "abusers", File: path, Entries: prefixes("192.0.2.1")}}, 5)
	return strings.ReplaceAll(fmt.Sprint(err), path, "FILE")
}

func TestFileErrors(t *testing.T) {
	const place = "table.abusers: file FILE: "
	notPrefix := func(n int, word string) string {
		return fmt.Sprintf("%sline %d: %q is not an address or a prefix (such as 192.0.2.1, 2001:db8::/32 or any)", place, n, word)
	}
	for _, tt := range []struct{ text, want string }{
		{"192.0.2.2\nexample.com\n192.0.2.0/33\n", notPrefix(2, "example.com") + "\n" + notPrefix(3, "192.0.2.0/33")},
		{"192.0.2.2 192.0.2.3\n", notPrefix(1, "192.0.2.2 192.0.2.3")},
		{"\n!192.0.2.1\n", place + "line 2: 192.0.2.1 is in the table already, without !"},
		{"any\n", place + `line 1: "any": in a table, any is written as 0.0.0.0/0 and ::/0`},
		{"\n10.0.0.1\n10.0.0.2\n10.0.0.3\n10.0.0.4\n10.0.0.5\n10.0.0.6\nx\n", place + "too many entries: limits.table_entries leaves room for 5; raise it"},
		{"\n# " + strings.Repeat("x", 2000), place + "line 2: longer than 1024 octets; is this a table, one entry a line?"},
		{"\x7fELF\x00\x01\n", notPrefix(1, "\x7fELF\x00\x01")},
	} {
		if got := loadError(write(t, tt.text)); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
}

func TestManyFileErrors(t *testing.T) {
	got := strings.Split(loadError(write(t, strings.Repeat("x\n", 10_000))), "\n")
	if len(got) != maxErrors+1 || got[maxErrors] != "table.abusers: and 9990 more" {
		t.Errorf("%d lines, the last is %s", len(got), got[len(got)-1])
	}
}

// Two tables, each with its errors.
func TestEveryTableIsRead(t *testing.T) {
	_, err := Load(0, []config.Table{{Name: "a", File: "/nonexistent/a"}, {Name: "b", File: "/nonexistent/b"}}, 5)
	const want = "table.a: file /nonexistent/a: no such file or directory\ntable.b: file /nonexistent/b: no such file or directory"
	if fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	_, err = Load(0, []config.Table{{Name: "a", Entries: prefixes("10.0.0.1", "10.0.0.2", "10.0.0.3")}}, 2)
	if fmt.Sprint(err) != "table.a: too many entries: limits.table_entries leaves room for 2; raise it" {
		t.Error(err)
	}
}

func TestNoFile(t *testing.T) {
	dir := t.TempDir()
	fifo, huge := filepath.Join(dir, "fifo"), filepath.Join(dir, "huge")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file or directory",
		dir:                        "is a directory",
		"/dev/zero":                "is not a regular file",
		fifo:                       "is not a regular file",
		huge:                       "larger than 256 MiB; is this a table?",
	} {
		if got := loadError(path); got != "table.abusers: file FILE: "+want {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	path := write(t, "192.0.2.1\n")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if got := loadError(path); got != "table.abusers: file FILE: permission denied" {
		t.Error(got)
	}
}

// A file of as many entries as fit.
func TestLargeFile(t *testing.T) {
	var b strings.Builder
	for i := range 200_000 {
		fmt.Fprintln(&b, nth(i))
	}
	c, err := Load(0, []config.Table{{Name: "t", File: write(t, b.String())}}, 200_000)
	if err != nil || c.total < 190_000 {
		t.Errorf("%v", err)
	}
}
