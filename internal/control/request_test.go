package control

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte(`{"command":"states","args":{"counters":true}}` + "\n"))
	f.Add([]byte("null\n{}"))
	f.Add([]byte("\x00\xff\n"))
	f.Add([]byte(strings.Repeat("[", 1000) + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRequest(bytes.NewReader(b))
		if err != nil {
			if text := err.Error(); !strings.HasPrefix(text, "request: ") || strings.Contains(text, "\n") {
				t.Errorf("error %q", text)
			}
			return
		}
		line, _, ended := bytes.Cut(b, []byte("\n"))
		if !ended || len(line) >= maxRequest || r.Command == "" {
			t.Errorf("taken: %+v", r)
		}
		if len(r.Args) > 0 && !json.Valid(r.Args) {
			t.Errorf("arguments %q", r.Args)
		}
	})
}
