package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Nginx is an nginx that serves one small page.
type Nginx struct {
	*Command

	ns     *Namespace
	listen []netip.AddrPort
}

const nginxConfig = `daemon off;
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	server {
%[2]s		root %[1]s/htdocs;
	}
}
`

// StartNginx starts nginx inside the namespace and waits until it listens.
// Stop or the closing of the lab ends it.
func (n *Namespace) StartNginx(ctx context.Context, listen ...netip.AddrPort) (*Nginx, error) {
	dir, err := n.site("nginx")
	if err != nil {
		return nil, err
	}
	var lines strings.Builder
	for _, a := range listen {
		fmt.Fprintf(&lines, "\t\tlisten %v backlog=4096;\n", a)
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConfig, dir, lines.String()), 0o644); err != nil {
		return nil, err
	}
	errorLog := filepath.Join(dir, "error.log")
	s := &Nginx{Command: n.Command(context.WithoutCancel(ctx), "nginx", "-c", conf, "-e", errorLog), ns: n, listen: listen}
	return s, startServer(ctx, s.Command, errorLog, listen)
}

// Sockets returns the server's connections.
func (s *Nginx) Sockets() (Sockets, error) { return connectionsOf(s.ns, s.listen) }
