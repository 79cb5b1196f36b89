package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	payload = 200e6 // bytes
	// handful is more packets than a handshake and a closing have, with some
	// sent twice.
	handful = 30
)

func showPayload(ctx context.Context, st *stage) error {
	l, err := st.Server.Listen(web)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close()
	before, err := st.Gateway.Queued()
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- serve(l) }()
	took, passed, err := st.download(ctx)
	_ = l.Close() // for serve, if nobody came
	if err = errors.Join(err, <-served); err != nil {
		return err
	}
	if err := st.waitStates(ctx, "FIN_WAIT_2:FIN_WAIT_2", 1); err != nil {
		return err
	}
	after, err := st.Gateway.Queued()
	if err != nil {
		return err
	}
	visited := after - before
	st.report.saw("%d MB in %s (%.1f Gbit/s)", int(payload/1e6), seconds(took), payload*8/1e9/took.Seconds())
	st.report.saw("the kernel passed %d packets (of up to 64 KB), of which %d visited user space", passed, visited)
	if visited == 0 || visited > handful || passed < 10*visited {
		return fmt.Errorf("packets in user space: %d of %d, expected 1 to %d", visited, passed, handful)
	}
	return nil
}

// serve sends the payload to the first client, and waits until that one closes.
func serve(l *net.TCPListener) error {
	c, err := l.AcceptTCP()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	defer c.Close()
	chunk := make([]byte, 1<<16)
	for left := int(payload); left > 0; left -= len(chunk) {
		if _, err := c.Write(chunk[:min(left, len(chunk))]); err != nil {
			return fmt.Errorf("serve: %w", err)
		}
	}
	_, err = c.Read(chunk)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("serve: wait for the client to close: %w", err)
}

// download gets the payload, and asks nfqfw how many packets that were.
func (st *stage) download(ctx context.Context) (took time.Duration, packets uint64, err error) {
	c, err := st.Client.Dial(ctx, netip.AddrPortFrom(honest, 0), web)
	if err != nil {
		return 0, 0, fmt.Errorf("download: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	start := time.Now()
	if _, err = io.CopyN(io.Discard, c, payload); err != nil {
		return 0, 0, fmt.Errorf("download: %w", err)
	}
	took = time.Since(start)
	list, err := st.firewall.States(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, s := range list {
		if s.Original != nil && s.Reply != nil {
			packets += s.Original.Packets + s.Reply.Packets
		}
	}
	return took, packets, nil
}
