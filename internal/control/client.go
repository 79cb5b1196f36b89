package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"
)

// Call asks the daemon at a socket and hands each item of its answer to f, which is
// not to keep it.
func Call(ctx context.Context, socket, command string, args any, f func(json.RawMessage) error) error {
	request, err := newRequest(command, args)
	if err != nil {
		return err
	}
	c, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := c.Write(request); err != nil {
		return fmt.Errorf("%s: send the request: %w", command, cause(err))
	}
	if err = read(c, command, f); ctx.Err() != nil {
		return fmt.Errorf("%s: interrupted: %w", command, context.Cause(ctx))
	}
	return err
}

func dial(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%s: no daemon is listening there; start nfqfw run, or name its socket with --control or $NFQFW_CONTROL", socket)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: permission denied; only the user that runs the daemon, or the group that its file names, may ask it", socket)
	}
	return nil, fmt.Errorf("%s: %w", socket, cause(err))
}

// read hands the items of an answer to f. Each is a line of its own, which is cut
// out and not decoded: a million states are read in little time.
func read(r io.Reader, command string, f func(json.RawMessage) error) error {
	lines := bufio.NewReaderSize(r, 64<<10)
	var long []byte
	for {
		line, err := readLine(lines, &long)
		if err != nil {
			return fmt.Errorf("%s: the daemon's answer was cut off: %w", command, cause(err))
		}
		if item, ok := cutItem(line); ok {
			if err := f(item); err != nil {
				return err
			}
			continue
		}
		var a answer
		switch err := json.Unmarshal(line, &a); {
		case err != nil:
			return fmt.Errorf("%s: the daemon's answer makes no sense: %w", command, err)
		case a.Error != "":
			return errors.New(a.Error)
		case a.Done:
			return nil
		}
		return fmt.Errorf("%s: the daemon's answer makes no sense: %.100q", command, line)
	}
}

// readLine reads a line of any length, which is valid until the next; long is memory
// for those that do not fit into the buffer.
func readLine(r *bufio.Reader, long *[]byte) ([]byte, error) {
	*long = (*long)[:0]
	for {
		part, err := r.ReadSlice('\n')
		if len(*long) == 0 && err == nil {
			return part, nil
		}
		*long = append(*long, part...)
		switch {
		case err == nil:
			return *long, nil
		case err == io.EOF && len(*long) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != bufio.ErrBufferFull:
			return nil, err
		}
	}
}

// cutItem cuts the item out of a line.
func cutItem(line []byte) (item json.RawMessage, ok bool) {
	item, ok = bytes.CutPrefix(line, []byte(`{"item":`))
	if ok {
		item, ok = bytes.CutSuffix(item, []byte("}\n"))
	}
	return item, ok
}
