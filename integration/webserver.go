package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// serverStart is how long a server may take until it listens.
const serverStart = 10 * time.Second

// Page is what the web servers of the lab serve at /.
const Page = "served\n"

// site makes a directory with a page in it.
func (n *Namespace) site(program string) (dir string, err error) {
	parent, err := n.lab.TempDir()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(parent, program+"-"); err != nil {
		return "", err
	}
	htdocs := filepath.Join(dir, "htdocs")
	if err := os.Mkdir(htdocs, 0o755); err != nil {
		return "", err
	}
	// The workers are not root.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(htdocs, "index.html"), []byte(Page), 0o644)
}

// startServer starts a server and waits until it listens everywhere it
// should. It looks at sockets and does not connect, so that no test counts a
// connection it did not make.
func startServer(ctx context.Context, c *Command, errorLog string, listen []netip.AddrPort) error {
	// Another server there would be taken for this one.
	if a := slices.IndexFunc(listen, func(a netip.AddrPort) bool { return listening(c.ns, []netip.AddrPort{a}) }); a >= 0 {
		return fmt.Errorf("start %s: address %v in use", filepath.Base(c.Path), listen[a])
	}
	if err := c.Start(); err != nil {
		return err
	}
	go func() { _ = c.Wait() }() // a server that dies is noticed at once
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	err := Poll(ctx, func() bool { return c.ended() || listening(c.ns, listen) })
	if err == nil && !c.ended() {
		return nil
	}
	_ = c.Stop() // the log says more than the way it ended
	text, _ := os.ReadFile(errorLog)
	return fmt.Errorf("start %s: does not listen: %s", filepath.Base(c.Path), strings.TrimSpace(string(text)))
}

// listening tells whether every address is listened on.
func listening(n *Namespace, addrs []netip.AddrPort) bool {
	sockets, err := n.Sockets(Listen)
	return err == nil && !slices.ContainsFunc(addrs, func(a netip.AddrPort) bool {
		return len(sockets.keep(func(k Socket) bool { return k.Local == a })) == 0
	})
}

// connectionsOf lists the sockets on a server's ports, its listeners left out.
func connectionsOf(n *Namespace, listen []netip.AddrPort) (Sockets, error) {
	sockets, err := n.Sockets()
	if err != nil {
		return nil, err
	}
	return sockets.keep(func(k Socket) bool {
		return k.State != Listen && slices.ContainsFunc(listen, func(a netip.AddrPort) bool {
			return a.Port() == k.Local.Port()
		})
	}), nil
}
