package control

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// leaveStale leaves a socket as a killed daemon does.
func leaveStale(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	must(t, err)
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, l.Close())
}

func TestModeIsPrivate(t *testing.T) {
	for _, mask := range []int{0, 0o022, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			defer unix.Umask(unix.Umask(mask))
			path := filepath.Join(filepath.Dir(socketIn(t)), "made", "here", "control.sock")
			start(t, path, nil, nil)
			info, err := os.Stat(path)
			must(t, err)
			if info.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("socket: %v", info.Mode())
			}
			dir, err := os.Stat(filepath.Dir(path))
			must(t, err)
			if want := fs.FileMode(0o755 &^ mask); dir.Mode() != fs.ModeDir|want { // a group may be let in
				t.Errorf("folder: %v, want %v", dir.Mode(), want)
			}
		})
	}
}

// The socket is private from its first moment on, not only once Listen returns.
func TestNeverOpenToOthers(t *testing.T) {
	defer unix.Umask(unix.Umask(0))
	path := socketIn(t)
	stop, worst := make(chan struct{}), make(chan fs.FileMode)
	go func() {
		var seen fs.FileMode
		for {
			select {
			case <-stop:
				worst <- seen
				return
			default:
			}
			if info, err := os.Lstat(path); err == nil {
				seen |= info.Mode().Perm()
			}
		}
	}()
	for range 2000 {
		l, err := listen(path)
		must(t, err)
		l.Close()
	}
	close(stop)
	if seen := <-worst; seen&^0o600 != 0 {
		t.Errorf("was %v for a moment", seen)
	}
}

func TestListenErrors(t *testing.T) {
	path := socketIn(t)
	dir := filepath.Dir(path)
	regular := filepath.Join(dir, "regular")
	must(t, os.WriteFile(regular, []byte("mine"), 0o600))
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(regular, link))
	start(t, path, handlers, nil)
	long := filepath.Join(dir, strings.Repeat("x", 108))

	tests := []struct{ path, want string }{
		{path, "a daemon is running there; stop it first, or choose another socket with --control"},
		{regular, "exists and is not a socket; choose another path, or remove it"},
		{link, "exists and is not a socket; choose another path, or remove it"},
		{dir, "exists and is not a socket; choose another path, or remove it"},
		{long, fmt.Sprintf("a socket's path has at most 107 octets, this one has %d", len(long))},
		{regular + "/control.sock", "not a directory"},
		{"/proc/nfqfw/control.sock", "no such file or directory"},
	}
	for _, tt := range tests {
		s, err := Listen(tt.path, nil, slog.New(slog.DiscardHandler))
		if want := "control: " + tt.path + ": " + tt.want; fmt.Sprint(err) != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
		if s != nil {
			t.Error("a server with an error")
		}
	}
	if b, err := os.ReadFile(regular); string(b) != "mine" {
		t.Errorf("the regular file: %q, %v", b, err)
	}
	checkAnswers(t, path)
}

func TestStaleSocketIsTakenOver(t *testing.T) {
	path := socketIn(t)
	leaveStale(t, path)
	start(t, path, handlers, nil)
	checkAnswers(t, path)
}

// A daemon with no room for one more client is a daemon all the same.
func TestBusyDaemonIsLeftAlone(t *testing.T) {
	path := socketIn(t)
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	var waiting []net.Conn
	defer func() {
		for _, c := range waiting {
			c.Close()
		}
	}()
	for { // nobody accepts: fill the backlog
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			unix.Close(fd)
			break
		}
		f := os.NewFile(uintptr(fd), "client")
		c, err := net.FileConn(f)
		f.Close()
		must(t, err)
		waiting = append(waiting, c)
	}
	if _, err := Listen(path, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "a daemon is running there") {
		t.Errorf("got %v", err)
	}
}
