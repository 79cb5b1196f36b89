package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// linkWatch hears of interfaces that come, go and change. It is asked by news, or told
// by run, and not both.
type linkWatch struct {
	con     *netlink.Conn
	changed chan struct{} // has room for one
	log     *slog.Logger

	raw   syscall.RawConn
	drain func(fd uintptr) bool // made once, so that asking allocates nothing
	heard bool                  // what news returns next
}

// openLinkWatch opens one in the network namespace of the calling thread.
func openLinkWatch(log *slog.Logger) (*linkWatch, error) {
	con, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return nil, fmt.Errorf("daemon: hear of interfaces: %w", err)
	}
	raw, err := con.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("daemon: hear of interfaces: %w", err), con.Close())
	}
	w := &linkWatch{con: con, changed: make(chan struct{}, 1), log: log, raw: raw, heard: true}
	w.drain = w.drainFrom
	return w, nil
}

// news says whether anything may have changed since it was last asked; the first time
// it may. It does not wait. The kernel tells of a change before the call that makes it
// returns: who asks between a packet's arrival and its judgement knows of all that was
// done before the packet came, which a goroutine that hears beside it may not yet.
func (w *linkWatch) news() bool {
	if err := w.raw.Read(w.drain); err != nil {
		return false // closed
	}
	heard := w.heard
	w.heard = false
	return heard
}

// drainFrom reads all there is, and does not have the caller wait for more.
func (w *linkWatch) drainFrom(fd uintptr) bool {
	var start [1]byte // of a message; what is in it will be asked for
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&start)), 1)
		if errno == unix.EAGAIN {
			return true
		}
		w.heard = true
		if errno != 0 && errno != unix.ENOBUFS && errno != unix.EINTR {
			return true
		}
	}
}

// wake has whoever waits for a channel that has room for one look; who has not looked since
// it was last woken will see.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run listens until ctx ends. What the kernel had no room to tell was a change too.
func (w *linkWatch) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = w.con.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		_, err := w.con.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			w.log.Debug("interfaces change faster than can be heard")
		case err != nil:
			return fmt.Errorf("daemon: hear of interfaces: %w", err)
		}
		wake(w.changed)
	}
}
