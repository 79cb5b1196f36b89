package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// linkWatch hears of interfaces that come, go and change.
type linkWatch struct {
	con     *netlink.Conn
	changed chan struct{} // has room for one
	log     *slog.Logger
}

// openLinkWatch opens one in the network namespace of the calling thread.
func openLinkWatch(log *slog.Logger) (*linkWatch, error) {
	con, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_LINK})
	if err != nil {
		return nil, fmt.Errorf("daemon: hear of interfaces: %w", err)
	}
	return &linkWatch{con: con, changed: make(chan struct{}, 1), log: log}, nil
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
		select {
		case w.changed <- struct{}{}:
		default: // it will be seen
		}
	}
}
