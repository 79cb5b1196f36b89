package integration

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// HAProxy is an HAProxy that passes TCP connections on and limits how many there are of
// a source.
type HAProxy struct {
	*Command

	socket string // its control socket
}

// haproxyConfig counts a connection before it is looked at, so that the one over the
// limit is counted too.
const haproxyConfig = `global
	maxconn %[1]d
	stats socket %[2]s level admin
	stats timeout 10s
defaults
	mode tcp
	maxconn %[1]d
	timeout connect 5s
	timeout client 1m
	timeout server 1m
frontend web
	bind %[3]v backlog 4096
	stick-table type ip size 1m expire 1m store conn_cur
	tcp-request connection track-sc0 src
	tcp-request connection reject if { sc0_conn_cur gt %[4]d }
	default_backend servers
backend servers
	server one %[5]v
`

// haproxyConns is how many connections it takes, each with a descriptor at either side.
const haproxyConns = 9000

// haproxyTimeout bounds a question to its control socket.
const haproxyTimeout = 5 * time.Second

// StartHAProxy starts an HAProxy inside the namespace, that listens at one address, passes
// on to another and allows a source so many connections, and waits until it listens. It
// ends with the lab.
func (n *Namespace) StartHAProxy(ctx context.Context, listen, server netip.AddrPort, limit int) (*HAProxy, error) {
	parent, err := n.lab.TempDir()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, "haproxy-")
	if err != nil {
		return nil, err
	}
	h := &HAProxy{socket: filepath.Join(dir, "control.sock")}
	conf, errorLog := filepath.Join(dir, "haproxy.cfg"), filepath.Join(dir, "error.log")
	text := fmt.Appendf(nil, haproxyConfig, haproxyConns, h.socket, listen, limit, server)
	if err := os.WriteFile(conf, text, 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(errorLog)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	h.Command = n.Command(context.WithoutCancel(ctx), "haproxy", "-db", "-f", conf)
	h.Command.Stderr = log
	return h, startServer(ctx, h.Command, errorLog, []netip.AddrPort{listen})
}

// Pid is its process number.
func (h *HAProxy) Pid() int { return h.Process.Pid }

// Table is what it prints of the sources it counts.
func (h *HAProxy) Table() (string, error) {
	c, err := net.DialTimeout("unix", h.socket, haproxyTimeout)
	if err != nil {
		return "", fmt.Errorf("haproxy: %w", err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(haproxyTimeout))
	if _, err := io.WriteString(c, "show table web\n"); err != nil {
		return "", fmt.Errorf("haproxy: ask for its table: %w", err)
	}
	text, err := io.ReadAll(c)
	if err != nil {
		return "", fmt.Errorf("haproxy: read its table: %w", err)
	}
	return string(text), nil
}
