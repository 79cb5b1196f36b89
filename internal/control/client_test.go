package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

func TestNoDaemon(t *testing.T) {
	const hint = ": no daemon is listening there; start nfqfw run, or name its socket with --control or $NFQFW_CONTROL"
	missing := socketIn(t)
	stale := socketIn(t)
	leaveStale(t, stale)
	for _, path := range []string{missing, stale} {
		if _, err := ask(t, path, "count", 1); fmt.Sprint(err) != path+hint {
			t.Errorf("got %v", err)
		}
	}
	below := filepath.Join(stale, "control.sock")
	if _, err := ask(t, below, "count", 1); fmt.Sprint(err) != below+": not a directory" {
		t.Errorf("got %v", err)
	}
}

// answers serves one client with a fixed answer.
func answers(t *testing.T, answer string) string {
	t.Helper()
	path := socketIn(t)
	l, err := net.Listen("unix", path)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, maxRequest))
		_, _ = io.WriteString(c, answer)
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return path
}

func TestOddAnswers(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	tests := []struct{ name, answer, items, err string }{
		{"done", `{"done":true}` + "\n", "", ""},
		{"nothing", "", "", "states: the daemon's answer was cut off: EOF"},
		{"no end", `{"item":1}` + "\n", "1", "states: the daemon's answer was cut off: EOF"},
		{"half", `{"item":1}` + "\n" + `{"item":`, "1", "states: the daemon's answer was cut off: unexpected EOF"},
		{"end of the line missing", `{"done":true}`, "", "states: the daemon's answer was cut off: unexpected EOF"},
		{"no JSON", "hello\n", "", "states: the daemon's answer makes no sense: invalid character 'h' looking for beginning of value"},
		{"neither item nor end", "{}\n", "", `states: the daemon's answer makes no sense: "{}\n"`},
		{"error after items", `{"item":1}` + "\n" + `{"error":"states: stopping"}` + "\n", "1", "states: stopping"},
		{"more after the end", `{"done":true}` + "\n" + `{"item":1}` + "\n", "", ""},
		{"a long item", `{"item":"` + long + `"}` + "\n" + `{"item":2}` + "\n" + `{"done":true}` + "\n", `"` + long + `" 2`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			items, err := ask(t, answers(t, tt.answer), "states", nil)
			if items != tt.items || fmt.Sprint(err) != orNil(tt.err) {
				t.Errorf("got %.200q, %v\nwant %.200q, %v", items, err, tt.items, orNil(tt.err))
			}
		})
	}
}

func TestCallInterrupted(t *testing.T) {
	path := socketIn(t)
	asked := make(chan struct{})
	start(t, path, map[string]Handler{"wait": func(ctx context.Context, _ json.RawMessage, _ func(any) error) error {
		close(asked)
		<-ctx.Done()
		return nil
	}}, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-asked
		cancel(errors.New("by the test"))
	}()
	err := Call(ctx, path, "wait", nil, func(json.RawMessage) error { return nil })
	if fmt.Sprint(err) != "wait: interrupted: by the test" {
		t.Errorf("got %v", err)
	}
}

// An item that its receiver does not want ends the call with the receiver's error.
func TestItemRefused(t *testing.T) {
	path := socketIn(t)
	start(t, path, handlers, nil)
	full := errors.New("full")
	err := Call(t.Context(), path, "count", 100_000, func(json.RawMessage) error { return full })
	if err != full {
		t.Errorf("got %v", err)
	}
	checkAnswers(t, path)
}
