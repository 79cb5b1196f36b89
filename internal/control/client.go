package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"

	"golang.org/x/sys/unix"
)

// Call asks the daemon at a socket and hands each item of its answer to f.
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
		return nil, fmt.Errorf("%s: permission denied; only the user that runs the daemon may ask it", socket)
	}
	return nil, fmt.Errorf("%s: %w", socket, cause(err))
}

func read(r io.Reader, command string, f func(json.RawMessage) error) error {
	dec := json.NewDecoder(r)
	for {
		var a struct {
			Item  json.RawMessage `json:"item"`
			Done  bool            `json:"done"`
			Error string          `json:"error"`
		}
		switch err := dec.Decode(&a); {
		case err != nil:
			return fmt.Errorf("%s: the daemon's answer was cut off: %w", command, cause(err))
		case a.Error != "":
			return errors.New(a.Error)
		case a.Done:
			return nil
		}
		if err := f(a.Item); err != nil {
			return err
		}
	}
}
