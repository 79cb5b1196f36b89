package control

import (
	"bufio"
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
	"sync"
	"time"
)

const (
	maxRequest     = 64 << 10 // octets
	requestTimeout = 5 * time.Second
	writeTimeout   = 10 * time.Second // for each line: a client that stops reading is let go
	maxClients     = 32               // at once
)

// Request is what a client asks.
type Request struct {
	Command string          `json:"command"`
	Args    json.RawMessage `json:"args,omitempty"`
}

type answer struct {
	Item  any    `json:"item,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Handler answers one command by sending items. Its error is told to the
// client; one of send's means that the client is gone.
type Handler func(ctx context.Context, args json.RawMessage, send func(item any) error) error

// Server answers clients on a Unix socket.
type Server struct {
	listener net.Listener
	handlers map[string]Handler
	log      *slog.Logger
	clients  sync.WaitGroup
	room     chan struct{}
}

// Listen makes the socket, and its folder if need be. It takes the place of a
// socket nobody listens on, and refuses to take that of a running daemon.
func Listen(path string, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	if err := clear(path); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control: %w", err)
	}
	return &Server{listener: l, handlers: handlers, log: log, room: make(chan struct{}, maxClients)}, nil
}

// clear makes way for a socket at path.
func clear(path string) error {
	// Nobody may open the socket between its making and its chmod, so the
	// folder is the owner's when it is ours to make.
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s: is not a socket; choose another path, or remove it", path)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("%s: a daemon is running there; stop it first, or choose another socket with --control", path)
	}
	return os.Remove(path)
}

// Serve answers clients until ctx ends, and then waits for those it has.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	defer s.clients.Wait()
	for {
		c, err := s.listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		s.room <- struct{}{}
		s.clients.Go(func() {
			defer func() { <-s.room }()
			s.serve(ctx, c)
		})
	}
}

// Close removes the socket.
func (s *Server) Close() error { return s.listener.Close() }

func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("control: a request failed", "panic", r)
		}
	}()
	out := bufio.NewWriter(&deadlineWriter{c})
	enc := json.NewEncoder(out)
	end := answer{Done: true}
	if err := s.answer(ctx, c, func(item any) error { return enc.Encode(answer{Item: item}) }); err != nil {
		end = answer{Error: err.Error()}
	}
	if err := errors.Join(enc.Encode(end), out.Flush()); err != nil {
		s.log.Debug("control: client is gone", "err", err)
	}
}

func (s *Server) answer(ctx context.Context, c net.Conn, send func(any) error) error {
	if err := c.SetReadDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxRequest)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("request: not a line of at most %d octets within %v", maxRequest, requestTimeout)
	}
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	h := s.handlers[r.Command]
	if h == nil {
		return fmt.Errorf("request: %q: this daemon has no such command; is it older than the command line?", r.Command)
	}
	return h(ctx, r.Args, send)
}

type deadlineWriter struct{ net.Conn }

func (w *deadlineWriter) Write(b []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}
