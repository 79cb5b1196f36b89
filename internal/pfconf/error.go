package pfconf

import (
	"fmt"
	"strconv"
	"strings"
)

// errorAt is an error of a line of the source.
func errorAt(line int, what, format string, args ...any) error {
	return fmt.Errorf("line %d: %s: %w", line, what, fmt.Errorf(format, args...))
}

// maxShown is how many octets of a text an error or a note repeats.
const maxShown = 80

// shown quotes a text of the file; a long one is cut.
func shown(s string) string { return strconv.Quote(cut(s)) }

// cut is a text of the file, if it is long only its beginning.
func cut(s string) string {
	if len(s) <= maxShown {
		return s
	}
	return strings.ToValidUTF8(s[:maxShown], "") + "…"
}
