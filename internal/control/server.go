package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const (
	requestTimeout = 5 * time.Second
	writeTimeout   = 10 * time.Second       // for each write: a client that stops reading is let go
	writeSize      = 64 << 10               // octets of an answer that are written at once
	acceptPause    = 100 * time.Millisecond // after an error, as when descriptors run out
)

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
	owner    *peers // root, and the daemon's own user
	group    *peers // everybody else who is let in

	requestTimeout, writeTimeout time.Duration
}

// Listen makes the socket, and its folder if need be. It takes the place of a
// socket nobody listens on, and refuses to take that of a running daemon.
func Listen(path string, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	return newServer(l, handlers, log), nil
}

func newServer(l net.Listener, handlers map[string]Handler, log *slog.Logger) *Server {
	return &Server{
		listener: l, handlers: handlers, log: log, owner: newPeers(), group: newPeers(),
		requestTimeout: requestTimeout, writeTimeout: writeTimeout,
	}
}

// Share lets a group ask, besides the daemon's own user. The empty name is nobody's.
func (s *Server) Share(group string) error {
	if group == "" {
		return nil
	}
	if err := share(s.listener.Addr().String(), group); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	return nil
}

// Serve answers clients until ctx ends or Close is called, and then waits for
// those it has.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.clients.Wait()
	defer cancel() // lets clients go, when Close was called
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	for {
		c, err := s.listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.log.Warn("control: accept", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		from := s.peersOf(c)
		client := from.arrive(ctx, c, s.requestTimeout)
		s.clients.Go(func() {
			defer from.leave(client)
			s.serve(client)
		})
	}
}

// Close removes the socket.
func (s *Server) Close() error {
	if err := s.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// peersOf is who a client belongs to.
func (s *Server) peersOf(c net.Conn) *peers {
	uid, err := userOf(c)
	if err == nil && (uid == 0 || uid == os.Geteuid()) {
		return s.owner
	}
	return s.group
}

func (s *Server) serve(c *client) {
	defer c.Close()
	stop := context.AfterFunc(c.ctx, func() { c.Close() })
	defer stop()
	out := bufio.NewWriterSize(&deadlineWriter{c, s.writeTimeout}, writeSize)
	enc := json.NewEncoder(out)
	end := answer{Done: true}
	if err := s.answer(c, sendItems(out, enc)); err != nil {
		end = answer{Error: err.Error()}
	}
	if err := errors.Join(enc.Encode(end), out.Flush()); err != nil {
		s.log.Debug("control: client is gone", "err", err)
	}
}

// sendItems writes items, each a line of its own.
func sendItems(out *bufio.Writer, enc *json.Encoder) func(item any) error {
	var line []byte
	return func(item any) error {
		s, ok := item.(*State)
		if !ok {
			return enc.Encode(answer{Item: item})
		}
		line = append(s.AppendJSON(append(line[:0], `{"item":`...)), "}\n"...)
		_, err := out.Write(line)
		return err
	}
}

func (s *Server) answer(c *client, send func(any) error) error {
	r, err := readRequest(c)
	if err = c.enter(err); err != nil {
		return err
	}
	if r.Command == Takeover && c.from != s.owner {
		return errors.New("takeover: not permitted; only the user that runs the daemon may take its place")
	}
	h := s.handlers[r.Command]
	if h == nil {
		return fmt.Errorf("%s: the daemon has no such command; is it older than the command line?", r.Command)
	}
	return s.call(c.ctx, h, r, send)
}

// call keeps a handler's panic from the daemon, and tells the client of it.
func (s *Server) call(ctx context.Context, h Handler, r Request, send func(any) error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("control: panic while answering", "command", r.Command, "cause", cause, "stack", string(debug.Stack()))
			err = fmt.Errorf("%s: the daemon failed to answer; its log says why", r.Command)
		}
	}()
	return h(ctx, r.Args, send)
}

// deadlineWriter gives each write its time.
type deadlineWriter struct {
	net.Conn
	timeout time.Duration
}

// Write writes all of b in time, or fails.
func (w *deadlineWriter) Write(b []byte) (int, error) {
	if err := w.SetWriteDeadline(time.Now().Add(w.timeout)); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}
