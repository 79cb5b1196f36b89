package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
)

// DefaultSocket is where the daemon listens unless told otherwise.
const DefaultSocket = "/run/nfqfw/control.sock"

// Call asks the daemon at a socket and hands each item of its answer to f.
func Call(ctx context.Context, socket, command string, args any, f func(json.RawMessage) error) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("no daemon at %s: %w; is nfqfw running? (--control or $NFQFW_CONTROL name its socket)", socket, errors.Unwrap(err))
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	raw, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if err := json.NewEncoder(c).Encode(Request{Command: command, Args: raw}); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return read(c, command, f)
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
			return fmt.Errorf("%s: the daemon's answer was cut off: %w", command, err)
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
