package control

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// discard is a connection that hears one request, and of which the answer is looked at.
type discard struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (d *discard) Read(b []byte) (int, error)       { return d.in.Read(b) }
func (d *discard) Write(b []byte) (int, error)      { return d.out.Write(b) }
func (d *discard) SetReadDeadline(time.Time) error  { return nil }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }
func (d *discard) Close() error                     { return nil }

// Whatever a client sends, its answer is lines of JSON, of which the last says how it
// ended; and a client command reads it.
func FuzzServer(f *testing.F) {
	f.Add([]byte(`{"command":"count","args":3}` + "\n"))
	f.Add([]byte(`{"command":"panic"}` + "\n"))
	f.Add([]byte(`{"command":"unfit","args":{"a":[1]}}` + "\n{}\n"))
	f.Add([]byte("\x00\n"))
	bounded := map[string]Handler{"count": func(ctx context.Context, args json.RawMessage, send func(any) error) error {
		if len(args) > 3 {
			args = args[:3] // a hundred items tell as much as a million
		}
		return count(ctx, args, send)
	}, "fail": handlers["fail"], "panic": handlers["panic"], "unfit": handlers["unfit"]}
	s := newServer(nil, bounded, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, request []byte) {
		d := &discard{in: bytes.NewReader(request)}
		c := s.owner.arrive(t.Context(), d, time.Second)
		s.serve(c)
		s.owner.leave(c)
		if len(s.owner.room)+len(s.owner.waiting) > 0 {
			t.Fatal("a client is not forgotten")
		}
		lines := strings.SplitAfter(d.out.String(), "\n")
		if len(lines) < 2 || lines[len(lines)-1] != "" {
			t.Fatalf("answer %q", lines)
		}
		for i, line := range lines[:len(lines)-1] {
			_, item := cutItem([]byte(line))
			if last := i == len(lines)-2; !json.Valid([]byte(line)) || item == last {
				t.Errorf("line %q of %q", line, lines)
			}
		}
		err := read(&d.out, "count", func(json.RawMessage) error { return nil })
		if err != nil && strings.Contains(err.Error(), "makes no sense") {
			t.Error(err)
		}
	})
}

// Whatever a daemon answers, the command line takes its items or tells of an error.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"item":{"id":1}}` + "\n" + `{"done":true}` + "\n"))
	f.Add([]byte(`{"error":"count: no"}` + "\n"))
	f.Add([]byte(`{"item":` + "\n" + `{"item":}` + "\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		items := 0
		err := read(io.LimitReader(bytes.NewReader(b), maxRequest), "count", func(json.RawMessage) error { items++; return nil })
		if ended := bytes.Contains(b, []byte("}\n")); err == nil && !ended || items > bytes.Count(b, []byte("\n")) {
			t.Errorf("%d items, %v", items, err)
		}
	})
}
