package pfconf

import (
	"fmt"
	"strings"
)

// listWidth is how many characters a list may have in one line.
const listWidth = 90

// tomlKey writes a key, in quotes where it must have them.
func tomlKey(s string) string {
	bare := func(r rune) bool { return r < 0x80 && inMacroName(byte(r)) || r == '-' }
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !bare(r) }) {
		return s
	}
	return tomlString(s)
}

func tomlValue(v any) string {
	switch v := v.(type) {
	case string:
		return tomlString(v)
	case []any:
		return tomlList(v)
	case []entry:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = tomlKey(e.key) + " = " + tomlValue(e.value)
		}
		return "{ " + strings.Join(parts, ", ") + " }"
	}
	return fmt.Sprint(v)
}

// tomlList writes a list in a line, or one element a line if it is long.
func tomlList(list []any) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = tomlValue(v)
	}
	if line := "[" + strings.Join(parts, ", ") + "]"; len(line) <= listWidth {
		return line
	}
	return "[\n  " + strings.Join(parts, ",\n  ") + ",\n]"
}

// tomlString writes a basic string.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "?") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
