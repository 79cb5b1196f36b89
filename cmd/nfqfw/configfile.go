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
	"nfqfw/internal/pfconf"
)

// maxConfig is how many octets a configuration file has at most: enough for
// tens of thousands of rules, and an end to /dev/zero.
const maxConfig = 16 << 20

// configFlag adds -c FILE, without which the command is misused.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", "", "the configuration `FILE` (TOML; *.conf: pf's grammar)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			return misuse(cmd, "no configuration file given (-c FILE)")
		}
		return nil
	}
}

// isPF says whether the name of a file says that it is in pf's grammar.
func isPF(path string) bool { return strings.HasSuffix(path, ".conf") }

// readConfig reads and checks a file, in pf's grammar if its name ends in .conf; every
// line of its error names the file.
func readConfig(path string) (*config.Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, inFile(path, err)
	}
	parse := config.Parse
	if isPF(path) {
		parse = parsePF
	}
	c, err := parse(data)
	return c, inFile(path, err)
}

// parsePF reads a ruleset in pf's grammar, for this machine, whose addresses it may
// name. What of it has no equivalent is a warning.
func parsePF(data []byte) (*config.Config, error) {
	result, err := pfconf.Import(data)
	if err != nil {
		return nil, err
	}
	c, err := config.Parse(result.TOML)
	if err != nil {
		return nil, eachLine(err, result.AtSource)
	}
	var warnings []string
	for _, n := range result.Notes {
		warnings = append(warnings, n.String())
	}
	warnings = append(warnings, fillTables(c, result.Addresses)...)
	for _, w := range c.Warnings {
		warnings = append(warnings, result.AtSource(w))
	}
	c.Warnings = warnings
	return c, nil
}

// inFile puts the name of a file before each line of an error.
func inFile(path string, err error) error {
	return eachLine(err, func(line string) string { return path + ": " + line })
}

func eachLine(err error, change func(string) string) error {
	if err == nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(err.Error()), "\n")
	for i, line := range lines {
		lines[i] = change(line)
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
	return readLimited(f, limit)
}

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d MiB; is this the configuration file?", limit>>20)
	}
	return data, err
}
