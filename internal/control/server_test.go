package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketIn is the path of a socket in a folder of the test's own.
func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nfqfw-") // t.TempDir can be too long for a socket
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "control.sock")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start serves until the test ends, and checks that then nothing is left.
func start(t *testing.T, path string, handlers map[string]Handler, adjust func(*Server)) *Server {
	t.Helper()
	s, err := Listen(path, handlers, slog.New(slog.DiscardHandler))
	must(t, err)
	if adjust != nil {
		adjust(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Errorf("stop: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left behind: %v", err)
		}
	})
	return s
}

// count sends as many numbers as it is asked for.
func count(_ context.Context, args json.RawMessage, send func(any) error) error {
	var n int
	if err := json.Unmarshal(args, &n); err != nil {
		return fmt.Errorf("count: %w", err)
	}
	for i := range n {
		if err := send(i); err != nil {
			return err
		}
	}
	return nil
}

var handlers = map[string]Handler{
	"count": count,
	"fail":  func(context.Context, json.RawMessage, func(any) error) error { return errors.New("fail: as asked") },
	"panic": func(_ context.Context, _ json.RawMessage, send func(any) error) error {
		_ = send("before")
		panic("odd")
	},
	"unfit": func(_ context.Context, _ json.RawMessage, send func(any) error) error { return send(func() {}) },
}

// ask is Call with all items in one string.
func ask(t *testing.T, path, command string, args any) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var items []string
	err := Call(ctx, path, command, args, func(raw json.RawMessage) error {
		items = append(items, string(raw))
		return nil
	})
	return strings.Join(items, " "), err
}

func checkAnswers(t *testing.T, path string) {
	t.Helper()
	if got, err := ask(t, path, "count", 3); err != nil || got != "0 1 2" {
		t.Errorf("count 3: %q, %v", got, err)
	}
}

func TestAnswers(t *testing.T) {
	path := socketIn(t)
	start(t, path, handlers, nil)
	tests := []struct {
		command string
		args    any
		want    string
		err     string
	}{
		{"count", 0, "", ""},
		{"count", 3, "0 1 2", ""},
		{"count", "x", "", "count: json: cannot unmarshal string into Go value of type int"},
		{"fail", nil, "", "fail: as asked"},
		{"panic", nil, `"before"`, "panic: the daemon failed to answer; its log says why"},
		{"unfit", nil, "", "json: unsupported type: func()"},
		{"tables", nil, "", "tables: the daemon has no such command; is it older than the command line?"},
		{"", nil, "", "request: names no command"},
		{"count", strings.Repeat("x", maxRequest), "", "count: its arguments are longer than 65536 octets"},
		{"count", 1, "0", ""}, // it lives on
	}
	for _, tt := range tests {
		got, err := ask(t, path, tt.command, tt.args)
		if got != tt.want || fmt.Sprint(err) != orNil(tt.err) {
			t.Errorf("%q %v:\n got %q, %v\nwant %q, %v", tt.command, tt.args, got, err, tt.want, orNil(tt.err))
		}
	}
}

func orNil(text string) string {
	if text == "" {
		return "<nil>"
	}
	return text
}

func TestPanicIsLogged(t *testing.T) {
	path := socketIn(t)
	var log lockedBuilder
	start(t, path, handlers, func(s *Server) { s.log = slog.New(slog.NewTextHandler(&log, nil)) })
	_, _ = ask(t, path, "panic", nil)
	if got := log.String(); !strings.Contains(got, "command=panic cause=odd stack=") {
		t.Errorf("log: %q", got)
	}
}

// exchange writes octets to the socket and returns all that comes.
func exchange(t *testing.T, path string, request []byte, end bool) string {
	t.Helper()
	c := dialed(t, path)
	defer c.Close()
	_, _ = c.Write(request) // the server may have had enough before the end
	if end {
		must(t, c.CloseWrite())
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, unix.ECONNRESET) { // as when the server did not read all
		t.Errorf("read: %v", err)
	}
	return string(answer)
}

func dialed(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	c, err := net.Dial("unix", path)
	must(t, err)
	return c.(*net.UnixConn)
}

func TestOddRequests(t *testing.T) {
	path := socketIn(t)
	start(t, path, handlers, func(s *Server) { s.requestTimeout = 100 * time.Millisecond })
	const noJSON = `{"error":"request: not a JSON object of a command and its arguments: `
	long := strings.Repeat("x", maxRequest)
	tests := []struct {
		name, request string
		end           bool
		want          string // the beginning of the answer
	}{
		{"nothing", "", true, `{"error":"request: cut off before the end of its line"}` + "\n"},
		{"silence", "", false, `{"error":"request: did not come in time"}` + "\n"},
		{"no newline", `{"command":"count"}`, false, `{"error":"request: did not come in time"}` + "\n"},
		{"cut off", `{"command":"co`, true, `{"error":"request: cut off before the end of its line"}` + "\n"},
		{"longest", `{"command":"count","args":1` + long[:maxRequest-29] + "}\n", false, noJSON},
		{"too long", long + "\n", false, `{"error":"request: longer than 65536 octets"}` + "\n"},
		{"endless", strings.Repeat(long, 20), false, `{"error":"request: longer than 65536 octets"}` + "\n"},
		{"empty line", "\n", false, noJSON + "unexpected end of JSON input"},
		{"text", "states\n", false, noJSON + "invalid character 's'"},
		{"binary", "\x00\xff\x16\x03\x01\n", false, noJSON + `invalid character '\\x00'`},
		{"HTTP", "GET / HTTP/1.1\r\n\r\n", false, noJSON + "invalid character 'G'"},
		{"array", "[1]\n", false, noJSON},
		{"null", "null\n", false, `{"error":"request: names no command"}` + "\n"},
		{"deep", strings.Repeat("[", 60000) + "\n", false, noJSON},
		{"more after the line", `{"command":"count","args":1}` + "\n{}\n", false, `{"item":0}` + "\n" + `{"done":true}` + "\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := exchange(t, path, []byte(tt.request), tt.end); !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %.200q\nwant %q…", got, tt.want)
			}
		})
	}
	checkAnswers(t, path)
}

// A client that asks for much and reads nothing is let go.
func TestClientThatStopsReading(t *testing.T) {
	path := socketIn(t)
	ended := make(chan error, 1)
	endless := func(_ context.Context, _ json.RawMessage, send func(any) error) error {
		for {
			if err := send("more"); err != nil {
				ended <- err
				return err
			}
		}
	}
	start(t, path, map[string]Handler{"endless": endless, "count": count}, func(s *Server) { s.writeTimeout = 50 * time.Millisecond })
	c := dialed(t, path)
	defer c.Close()
	_, err := c.Write([]byte(`{"command":"endless"}` + "\n"))
	must(t, err)
	checkAnswers(t, path) // nobody else has to wait
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("still writing")
	}
}

// More clients than the daemon answers at once wait for each other.
func TestManyClients(t *testing.T) {
	path := socketIn(t)
	var now, most atomic.Int32
	release := make(chan struct{})
	busy := func(ctx context.Context, _ json.RawMessage, send func(any) error) error {
		for n := now.Add(1); ; {
			m := most.Load()
			if n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		defer now.Add(-1)
		<-release
		return send(1)
	}
	start(t, path, map[string]Handler{"busy": busy}, nil)
	const clients = 3 * maxClients
	results := make(chan error, clients)
	for range clients {
		go func() {
			got, err := ask(t, path, "busy", nil)
			if err == nil && got != "1" {
				err = fmt.Errorf("got %q", got)
			}
			results <- err
		}()
	}
	for most.Load() < maxClients {
		time.Sleep(time.Millisecond)
	}
	close(release)
	for range clients {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if most.Load() != maxClients {
		t.Errorf("%d at once, want %d", most.Load(), maxClients)
	}
}

// The end of the daemon does not wait for its clients.
func TestStopWithClients(t *testing.T) {
	path := socketIn(t)
	s, err := Listen(path, map[string]Handler{
		"wait": func(ctx context.Context, _ json.RawMessage, _ func(any) error) error {
			<-ctx.Done()
			return errors.New("wait: the daemon is stopping")
		},
	}, slog.New(slog.DiscardHandler))
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Serve(context.Background()) }()
	silent, waiting := dialed(t, path), dialed(t, path)
	defer silent.Close()
	defer waiting.Close()
	_, err = waiting.Write([]byte(`{"command":"wait"}` + "\n"))
	must(t, err)
	must(t, s.Close())
	must(t, s.Close())
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(time.Second):
		t.Error("still serving")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// lockedBuilder is a log that can be read while it is written.
type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
