package control

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxRequest is how many octets a request has at most, its newline included.
const maxRequest = 64 << 10

// Request is what a client asks.
type Request struct {
	Command string          `json:"command"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// newRequest is the line that asks a command.
func newRequest(command string, args any) ([]byte, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	line, err := json.Marshal(Request{Command: command, Args: raw})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if len(line) >= maxRequest {
		return nil, fmt.Errorf("%s: its arguments are longer than %d octets", command, maxRequest)
	}
	return append(line, '\n'), nil
}

// readRequest reads one line and no more than maxRequest octets.
func readRequest(r io.Reader) (Request, error) {
	line, err := bufio.NewReader(io.LimitReader(r, maxRequest)).ReadBytes('\n')
	switch {
	case err == nil:
		return parseRequest(line)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Request{}, errors.New("request: did not come in time")
	case len(line) == maxRequest:
		return Request{}, fmt.Errorf("request: longer than %d octets", maxRequest)
	case errors.Is(err, io.EOF):
		return Request{}, errors.New("request: cut off before the end of its line")
	}
	return Request{}, fmt.Errorf("request: %w", err)
}

func parseRequest(line []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(line, &r); err != nil {
		return Request{}, fmt.Errorf("request: not a JSON object of a command and its arguments: %w", err)
	}
	if r.Command == "" {
		return Request{}, errors.New("request: names no command")
	}
	return r, nil
}
