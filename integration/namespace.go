package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one network namespace of a lab.
type Namespace struct {
	// Name is the one that ip-netns(8) knows it by.
	Name string

	lab    *Lab
	handle netns.NsHandle
	nl     *netlink.Handle

	mu       sync.RWMutex // so that nothing uses handle and resident while close takes them away
	resident *thread
}

// newNamespace makes a namespace with nothing but loopback.
func newNamespace(l *Lab, name string) (*Namespace, error) {
	n := &Namespace{Name: name, lab: l, handle: netns.None()}
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("make namespace %s: %w", name, err), n.close())
	}
	return n, nil
}

func (n *Namespace) open() error {
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	// NewNamed leaves its thread in the new namespace; enter brings it back.
	err = runIn(home, func() (err error) {
		n.handle, err = netns.NewNamed(n.Name)
		return err
	})
	if err != nil {
		return err
	}
	if n.nl, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if n.resident, err = startThread(n.handle); err != nil {
		return err
	}
	_, err = n.up("lo")
	return err
}

// close kills what still runs in the namespace and removes it. The links go
// first: a socket that somebody forgot keeps a namespace alive, and must not
// keep the wires.
func (n *Namespace) close() error {
	var errs []error
	if n.handle.IsOpen() {
		errs = append(errs, killAll(n.handle))
	}
	if n.nl != nil {
		errs = append(errs, n.removeLinks())
		n.nl.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.resident != nil {
		n.resident.stop()
		n.resident = nil
	}
	if n.handle.IsOpen() {
		errs = append(errs, n.handle.Close())
	}
	return errors.Join(append(errs, removeName(n.Name))...)
}

func (n *Namespace) removeLinks() error {
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list links of %s: %w", n.Name, err)
	}
	var errs []error
	for _, k := range links {
		if k.Type() == "veth" {
			errs = append(errs, n.nl.LinkDel(k))
		}
	}
	return errors.Join(errs...)
}

// Do calls f on a thread inside the namespace: sockets that f makes belong to
// it, whoever uses them later. f must not start goroutines that make sockets,
// and must read /proc/thread-self/net, for /proc/net is the main thread's.
func (n *Namespace) Do(f func() error) error {
	handle, err := n.dup()
	if err != nil {
		return err
	}
	defer handle.Close()
	return runIn(handle, f)
}

// dup copies the handle, so that f may outlast the lab: with the handle itself
// it could enter whatever has got its number since.
func (n *Namespace) dup() (netns.NsHandle, error) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.handle.IsOpen() {
		return netns.None(), fmt.Errorf("enter namespace %s: %w", n.Name, os.ErrClosed)
	}
	fd, err := unix.FcntlInt(uintptr(n.handle), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return netns.None(), fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	return netns.NsHandle(fd), nil
}

// onResident calls a short f inside the namespace.
func (n *Namespace) onResident(f func() error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.resident == nil {
		return fmt.Errorf("use namespace %s: %w", n.Name, os.ErrClosed)
	}
	return n.resident.do(f)
}

// Sysctl sets a kernel parameter of the namespace, named as in sysctl(8).
func (n *Namespace) Sysctl(name, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(name, ".", "/"))
	err := n.onResident(func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("set %s in %s: %w", name, n.Name, err)
	}
	return nil
}

// Listen opens a TCP listener inside the namespace; [::] is dual stack.
func (n *Namespace) Listen(addr netip.AddrPort) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1} // no packet that a test did not ask for
	lc.SetMultipathTCP(false)             // else Go asks for a socket that is not plain TCP
	var l net.Listener
	err := n.onResident(func() (err error) {
		l, err = lc.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Dial connects from inside the namespace. laddr chooses the source: the zero
// AddrPort leaves it to the kernel, port 0 leaves the port. A given port can
// be in TIME_WAIT.
//
// Addresses, not names: with one address the net package makes its socket on
// the calling goroutine and so in the right namespace.
func (n *Namespace) Dial(ctx context.Context, laddr, raddr netip.AddrPort) (*net.TCPConn, error) {
	d := net.Dialer{KeepAlive: -1}
	if laddr.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(laddr)
		d.Control = reuseAddr
	}
	var c net.Conn
	err := n.Do(func() (err error) {
		c, err = d.DialContext(ctx, "tcp", raddr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// reuseAddr lets bind take a port whose last connection is in TIME_WAIT.
func reuseAddr(_, _ string, c syscall.RawConn) error {
	var err error
	ctl := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(ctl, err)
}

// HTTPClient returns a client inside the namespace that dials from the given
// address (the zero Addr: the kernel's choice), a new connection for every
// request. URLs must have address literals as hosts.
func (n *Namespace) HTTPClient(from netip.Addr) *http.Client {
	dial := func(ctx context.Context, _, addr string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return n.Dial(ctx, netip.AddrPortFrom(from, 0), to)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}
