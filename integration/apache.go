package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// apacheModules is where Debian keeps Apache's modules.
const apacheModules = "/usr/lib/apache2/modules"

// apacheStatusPort serves server-status on the loopback of the namespace.
const apacheStatusPort = 8099

// ApacheOptions describe an Apache with the prefork model, in which every
// connection occupies a process.
type ApacheOptions struct {
	Listen            []netip.AddrPort
	MaxRequestWorkers int // 0 means 100
	// Idle is how many processes wait for work from the start; 0 means 5.
	// Apache takes seconds to make more.
	Idle int
}

// Apache is a running Apache that serves one small page.
type Apache struct {
	*Command

	ns     *Namespace
	listen []netip.AddrPort
}

// apacheConfig has no mod_reqtimeout, which Debian enables against the very
// attack that the lab needs to succeed.
const apacheConfig = `ServerRoot %[1]s
DefaultRuntimeDir %[1]s
PidFile %[1]s/apache.pid
ErrorLog %[1]s/error.log
ServerName localhost
LoadModule mpm_prefork_module %[2]s/mod_mpm_prefork.so
LoadModule authz_core_module %[2]s/mod_authz_core.so
LoadModule dir_module %[2]s/mod_dir.so
LoadModule status_module %[2]s/mod_status.so
User www-data
Group www-data
StartServers %[4]d
MinSpareServers %[4]d
MaxSpareServers %[5]d
ServerLimit %[3]d
MaxRequestWorkers %[3]d
ListenBacklog 4096
KeepAlive Off
ExtendedStatus On
DocumentRoot %[1]s/htdocs
<Location /server-status>
	SetHandler server-status
</Location>
`

// StartApache starts Apache inside the namespace and waits until it listens.
// Stop or the closing of the lab ends it and its children.
func (n *Namespace) StartApache(ctx context.Context, opts ApacheOptions) (*Apache, error) {
	dir, err := n.site("apache")
	if err != nil {
		return nil, err
	}
	if opts.MaxRequestWorkers == 0 {
		opts.MaxRequestWorkers = 100
	}
	if opts.Idle == 0 {
		opts.Idle = 5
	}
	status := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), apacheStatusPort)
	listen := append([]netip.AddrPort{status}, opts.Listen...)
	var text strings.Builder
	fmt.Fprintf(&text, apacheConfig, dir, apacheModules, opts.MaxRequestWorkers, opts.Idle, opts.Idle+5)
	for _, a := range listen {
		fmt.Fprintf(&text, "Listen %v\n", a)
	}
	conf := filepath.Join(dir, "apache.conf")
	if err := os.WriteFile(conf, []byte(text.String()), 0o644); err != nil {
		return nil, err
	}
	s := &Apache{
		Command: n.Command(context.WithoutCancel(ctx), "apache2", "-f", conf, "-DFOREGROUND"),
		ns:      n,
		listen:  opts.Listen,
	}
	return s, startServer(ctx, s.Command, filepath.Join(dir, "error.log"), listen)
}

// Workers returns how many worker processes there are, busy or not.
func (s *Apache) Workers() (int, error) {
	pid := s.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, fmt.Errorf("count apache workers: %w", err)
	}
	return len(strings.Fields(string(children))), nil
}

// Sockets returns the server's connections.
func (s *Apache) Sockets() (Sockets, error) { return connectionsOf(s.ns, s.listen) }

// BusyWith returns how many workers a client keeps busy. It counts the sockets
// that a process holds, one to a worker, and so works when every worker is busy
// and none could answer Status.
func (s *Apache) BusyWith(client netip.Addr) (int, error) {
	sockets, err := s.Sockets()
	return len(sockets.From(client).Accepted()), err
}

// ApacheStatus is what mod_status tells.
type ApacheStatus struct {
	// Scoreboard has a letter for every worker, as mod_status explains them.
	Scoreboard string
	// Clients counts the busy workers of every client; the one that answers
	// the question counts for 127.0.0.1.
	Clients map[netip.Addr]int
}

var (
	statusScoreboard = regexp.MustCompile(`(?s)<pre>(.*?)</pre>`)
	// A row: mode of operation, seven numbers, client.
	statusRow = regexp.MustCompile(`<td><b>([A-Z])</b>\s*</td>(?:<td>[\d.]+\s*</td>){7}<td>([0-9a-f.:]+)</td>`)
)

// Status asks mod_status, which takes a free worker; ctx bounds the wait for
// one.
func (s *Apache) Status(ctx context.Context) (ApacheStatus, error) {
	page, err := s.statusPage(ctx)
	if err != nil {
		return ApacheStatus{}, fmt.Errorf("ask apache for its status: %w", err)
	}
	return parseStatus(page), nil
}

func (s *Apache) statusPage(ctx context.Context) (string, error) {
	url := fmt.Sprintf("http://127.0.0.1:%d/server-status", apacheStatusPort)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := s.ns.HTTPClient(netip.Addr{}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("answer %s", resp.Status)
	}
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}

// parseStatus reads the page made for people, for the one made for programs
// leaves the clients out.
func parseStatus(page string) ApacheStatus {
	st := ApacheStatus{Clients: make(map[netip.Addr]int)}
	if m := statusScoreboard.FindStringSubmatch(page); m != nil {
		st.Scoreboard = strings.ReplaceAll(m[1], "\n", "")
	}
	for _, m := range statusRow.FindAllStringSubmatch(page, -1) {
		if a, err := netip.ParseAddr(m[2]); err == nil {
			st.Clients[a.Unmap()]++
		}
	}
	return st
}
