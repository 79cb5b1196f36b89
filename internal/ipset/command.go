package ipset

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Tool is the program that the package runs.
const Tool = "ipset"

// Check says whether the program is there. It does not run it.
func Check() error {
	if _, err := exec.LookPath(Tool); err != nil {
		return errNotFound
	}
	return nil
}

var errNotFound = errors.New("ipset: not found in PATH; install the ipset package, or have no block rule that refuses with drop name a table")

// restore carries out what write writes. What is there already, or gone already, is
// no error.
func restore(ctx context.Context, write func(w io.Writer)) error {
	r, w := io.Pipe()
	defer r.Close() // ends write, if the program ended first
	go func() {
		b := bufio.NewWriterSize(w, 64<<10)
		write(b)
		w.CloseWithError(b.Flush())
	}()
	return run(ctx, r, io.Discard, "-exist", "restore")
}

// sets lists the names of our sets.
func sets(ctx context.Context) ([]string, error) {
	var out bytes.Buffer
	if err := run(ctx, nil, &out, "list", "-name"); err != nil {
		return nil, err
	}
	var ours []string
	for name := range strings.Lines(out.String()) {
		if strings.HasPrefix(name, prefix) {
			ours = append(ours, strings.TrimSpace(name))
		}
	}
	return ours, nil
}

// run runs the program, without a shell.
func run(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, Tool, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &complaint
	// Messages are searched for words: let no locale translate them.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	err := cmd.Run()
	if err == nil {
		return nil
	}
	return explain(ctx, strings.Join(strings.Fields(complaint.String()), " "), err)
}

// errInUse is the error of a set that a rule still refers to.
var errInUse = errors.New("is in use by a rule")

// explain says why the program failed, and what to do about it.
func explain(ctx context.Context, complaint string, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("ipset: %w", ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return errNotFound
	case strings.Contains(complaint, "Operation not permitted"):
		return errors.New("ipset: permission denied; run as root (CAP_NET_ADMIN)")
	case strings.Contains(complaint, "Cannot open session to kernel"):
		return fmt.Errorf("ipset: the kernel has no sets; load the modules ip_set and ip_set_hash_net: %s", complaint)
	case strings.Contains(complaint, "in use by a kernel component"):
		return errInUse
	}
	return fmt.Errorf("ipset: %w: %s", err, complaint)
}
