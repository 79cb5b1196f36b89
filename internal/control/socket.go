package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/config"
)

// listen makes the socket, and its folder if need be.
func listen(path string) (net.Listener, error) {
	if len(path) > config.MaxSocketPath {
		return nil, fmt.Errorf("%s: a socket's path has at most %d octets, this one has %d", path, config.MaxSocketPath, len(path))
	}
	if err := makeWay(path); err != nil {
		return nil, err
	}
	// The file gets the mode of the socket, less the umask (unix_bind_bsd in
	// net/unix/af_unix.c): at no time can another open it.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) { err = os.NewSyscallError("fchmod", unix.Fchmod(int(fd), 0o600)) })
		return errors.Join(ctl, err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	return l, nil
}

// share lets a group use the socket, which it names, or gives the number of.
func share(path, group string) error {
	id, err := groupID(group)
	if err != nil {
		return err
	}
	switch err := os.Lchown(path, -1, id); {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: may not be given to the group %s; run as a member of it (SupplementaryGroups= of systemd)", path, group)
	case err != nil:
		return fmt.Errorf("%s: give to the group %s: %w", path, group, cause(err))
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("%s: open to the group %s: %w", path, group, cause(err))
	}
	return nil
}

func groupID(group string) (int, error) {
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %s: there is none, or it cannot be looked up: %w", group, err)
	}
	return strconv.Atoi(g.Gid)
}

// makeWay removes a socket that nobody listens on, and nothing else.
func makeWay(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("%s: %w", path, cause(err))
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", path, cause(err))
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s: exists and is not a socket; choose another path, or remove it", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: a daemon is running there; stop it first, or choose another socket with --control", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: stale, and cannot be removed: %w", path, cause(err))
	}
	return nil
}

// cause is what the kernel says, without the calls and paths that package os
// and net put before it: our messages begin with the path themselves.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
