package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
)

// An operator hears at once, however many others have connected and say nothing.
func TestIdleClientsHoldNobodyUp(t *testing.T) {
	path := socketIn(t)
	start(t, path, handlers, nil)
	var idle []*net.UnixConn
	for range 1000 {
		c := dialed(t, path)
		defer c.Close()
		idle = append(idle, c)
	}
	began := time.Now()
	checkAnswers(t, path)
	if took := time.Since(began); took > requestTimeout/2 {
		t.Errorf("took %v", took)
	}
	const want = `{"error":"the daemon has too many clients at once; try again"}` + "\n"
	b := make([]byte, len(want))
	_ = idle[0].SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := idle[0].Read(b); string(b[:n]) != want {
		t.Errorf("the first one hears %q, %v", b[:n], err)
	}
}

// Clients that send garbage all the time hold nobody up either.
func TestGarbage(t *testing.T) {
	path := socketIn(t)
	start(t, path, handlers, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	const clients = 16
	for range clients {
		go func() {
			defer func() { ended <- struct{}{} }()
			for ctx.Err() == nil {
				if c, err := net.Dial("unix", path); err == nil {
					_, _ = c.Write([]byte(strings.Repeat("{}\n\x00[", 20000)))
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}
			}
		}()
	}
	for range 20 {
		checkAnswers(t, path)
	}
	cancel()
	for range clients {
		<-ended
	}
}

// dialedAs connects as a user who is in our group.
func dialedAs(t *testing.T, path string, uid uintptr) (c net.Conn) {
	t.Helper()
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread goes with its user
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
			err = errno
			return
		}
		c, err = net.Dial("unix", path)
	}()
	<-done
	must(t, err)
	return c
}

// Clients of the group, however many, hold up each other and not the owner.
func TestGroupHoldsNoOwnerUp(t *testing.T) {
	if os.Geteuid() != 0 {
		netnstest.Skip(t, "needs root to be another user")
	}
	const nobody = 65534
	path := socketIn(t)
	must(t, os.Chmod(filepath.Dir(path), 0o711))
	release := make(chan struct{})
	var began atomic.Int32
	busy := func(context.Context, json.RawMessage, func(any) error) error {
		began.Add(1)
		<-release
		return nil
	}
	s := start(t, path, map[string]Handler{"busy": busy, "count": count}, nil)
	must(t, s.Share(fmt.Sprint(os.Getegid())))
	mate := dialedAs(t, path, nobody)
	defer mate.Close()
	_, err := mate.Write([]byte(`{"command":"takeover"}` + "\n"))
	must(t, err)
	if b, err := io.ReadAll(mate); !strings.Contains(string(b), "takeover: not permitted") {
		t.Errorf("a member of the group takes over: %q, %v", b, err)
	}
	silent := dialed(t, path)
	defer silent.Close()
	for range maxClients + maxWaiting {
		c := dialedAs(t, path, nobody)
		defer c.Close()
		_, err := c.Write([]byte(`{"command":"busy"}` + "\n"))
		must(t, err)
	}
	for began.Load() < maxClients {
		time.Sleep(time.Millisecond)
	}
	checkAnswers(t, path)
	if n := began.Load(); n != maxClients {
		t.Errorf("%d of the group are answered at once", n)
	}
	_, err = silent.Write([]byte(`{"command":"count","args":1}` + "\n"))
	must(t, err)
	if b, err := io.ReadAll(silent); string(b) != "{\"item\":0}\n{\"done\":true}\n" {
		t.Errorf("the owner's that was there before: %q, %v", b, err)
	}
	close(release)
}

func TestUserOf(t *testing.T) {
	path := socketIn(t)
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	defer dialed(t, path).Close()
	c, err := l.Accept()
	must(t, err)
	defer c.Close()
	if uid, err := userOf(c); uid != os.Geteuid() || err != nil {
		t.Errorf("%d, %v; want %d", uid, err, os.Geteuid())
	}
}

// A shared socket is the group's, and is nobody else's at any time.
func TestShare(t *testing.T) {
	own, err := user.LookupGroupId(fmt.Sprint(os.Getegid()))
	must(t, err)
	for _, group := range []string{own.Name, own.Gid} {
		path := socketIn(t)
		s := start(t, path, handlers, nil)
		must(t, s.Share(""))
		checkMode(t, path, 0o600)
		must(t, s.Share(group))
		checkMode(t, path, 0o660)
		if err := s.Share("nfqfw-none"); err == nil || !strings.HasPrefix(err.Error(), "control: group nfqfw-none: there is none") {
			t.Errorf("got %v", err)
		}
		checkAnswers(t, path)
	}
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != fs.ModeSocket|want {
		t.Errorf("mode %v", info.Mode())
	}
}
