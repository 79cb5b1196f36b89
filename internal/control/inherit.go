package control

import (
	"fmt"
	"log/slog"
	"net"
	"os"
)

// Inherit answers clients at a socket that another process has made: file is a
// descriptor of it, as File gives it, which is closed. Clients that come meanwhile wait.
func Inherit(file *os.File, handlers map[string]Handler, log *slog.Logger) (*Server, error) {
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("control: inherit the socket: %w", err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(true)
	}
	return newServer(l, handlers, log), nil
}

// File is another descriptor of the socket, for a process that inherits it.
func (s *Server) File() (*os.File, error) {
	file, err := s.listener.(*net.UnixListener).File()
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	return file, nil
}

// Release ends answering, and leaves the socket to the process that has inherited it.
func (s *Server) Release() {
	s.listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = s.listener.Close()
}
