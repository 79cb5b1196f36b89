package main

import (
	"github.com/spf13/cobra"

	"nfqfw/internal/pfconf"
)

func newImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Translate a ruleset in pf's grammar (pf.conf) and print it",
		Long: `Translate a ruleset in pf's grammar (pf.conf) into the configuration of nfqfw, and
print it, with a comment for each thing that has no equivalent. FILE - is the
standard input.`,
		Example: "  nfqfw import /etc/pf.conf > /etc/nfqfw.toml",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := importFile(cmd, args[0]); err != nil {
				return failure{err}
			}
			return nil
		},
	}
}

// oneFile is for commands that take the name of a file.
func oneFile(cmd *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return misuse(cmd, "no file given")
	case 1:
		return nil
	}
	return misuse(cmd, "takes one file")
}

func importFile(cmd *cobra.Command, path string) error {
	data, err := readImported(cmd, path)
	if err != nil {
		return inFile(path, err)
	}
	result, err := pfconf.Import(data)
	if err != nil {
		return inFile(path, err)
	}
	_, err = cmd.OutOrStdout().Write(result.TOML)
	return err
}

// readImported reads a file, or the standard input.
func readImported(cmd *cobra.Command, path string) ([]byte, error) {
	if path == "-" {
		return readLimited(cmd.InOrStdin(), maxConfig)
	}
	return readFile(path)
}
