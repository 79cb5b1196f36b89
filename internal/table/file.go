package table

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"nfqfw/internal/config"
	"nfqfw/rules"
)

const (
	maxFile = 256 << 20 // octets of a file, enough for ten million entries
	maxLine = 1024      // octets of a line, comment included
)

// readEntries reads a file of entries, see scanEntries.
func readEntries(path string, f func(line int, p rules.Prefix, err error) error) error {
	file, err := open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return scanEntries(io.LimitReader(file, maxFile), f)
}

// scanEntries reads entries, one a line; a line may be empty, and from # on it is a
// comment. It hands each entry to f, or the error of its line, and ends with the first
// error that f returns.
func scanEntries(r io.Reader, f func(line int, p rules.Prefix, err error) error) error {
	lines := bufio.NewScanner(bufio.NewReaderSize(r, 64<<10))
	lines.Buffer(nil, maxLine+1) // and the newline
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := config.ParseEntry(text)
		if err := f(n, p, err); err != nil {
			return err
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d: longer than %d octets; is this a table, one entry a line?", n+1, maxLine)
	}
	return cause(lines.Err())
}

// open opens a regular file: others may have no end, or never begin.
func open(path string) (*os.File, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, cause(err)
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("larger than %d MiB; is this a table?", maxFile>>20)
	}
	file, err := os.Open(path)
	return file, cause(err)
}

// cause leaves the path to the caller, who says it first.
func cause(err error) error {
	var inside *fs.PathError
	if errors.As(err, &inside) {
		return inside.Err
	}
	return err
}
