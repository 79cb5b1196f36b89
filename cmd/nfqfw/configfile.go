package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nfqfw/internal/config"
)

// maxConfig is how many octets a configuration file has at most: enough for
// tens of thousands of rules, and an end to /dev/zero.
const maxConfig = 16 << 20

// configFlag adds -c FILE, without which the command is misused.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the configuration `FILE` (TOML)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			return misuse(cmd, "no configuration file given (-c FILE)")
		}
		return nil
	}
}

// readConfig reads and checks a file; every line of its error names the file.
func readConfig(path string) (*config.Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := config.Parse(data)
	if err == nil {
		return c, nil
	}
	return nil, inFile(path, err)
}

// inFile has every line of an error name the file.
func inFile(path string, err error) error {
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i, line := range lines {
		lines[i] = path + ": " + line
	}
	return errors.New(strings.Join(lines, "\n"))
}

// readFile leaves the path to the caller, who says it first.
func readFile(path string) ([]byte, error) {
	data, err := readAtMost(path, maxConfig)
	var inside *fs.PathError
	if errors.As(err, &inside) {
		return nil, inside.Err
	}
	return data, err
}

func readAtMost(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d MiB; is this the configuration file?", limit>>20)
	}
	return data, err
}
