package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newStates() *cobra.Command {
	var (
		socket  string
		verbose int
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "states",
		Short: "List the states, as pfctl -ss does",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			list := listText
			if asJSON {
				list = listJSON
			}
			if err := list(cmd.Context(), socketPath(socket), out, verbose); err != nil {
				return err
			}
			return out.Flush()
		}),
	}
	cmd.Flags().CountVarP(&verbose, "verbose", "v", "show windows, ages and counters; twice: identities too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON document")
	controlFlag(cmd, &socket, "$NFQFW_CONTROL, or "+control.DefaultSocket)
	return cmd
}

func listText(ctx context.Context, socket string, out io.Writer, verbose int) error {
	args := control.StatesArgs{Counters: verbose > 0}
	return control.Call(ctx, socket, "states", args, func(raw json.RawMessage) error {
		var s control.State
		if err := json.Unmarshal(raw, &s); err != nil {
			return fmt.Errorf("states: %w", err)
		}
		return s.WriteText(out, verbose)
	})
}

// listJSON writes the states as they come, so that a million of them need no
// memory here.
func listJSON(ctx context.Context, socket string, out io.Writer, _ int) error {
	separator := `{"states":[` + "\n"
	err := control.Call(ctx, socket, "states", control.StatesArgs{Counters: true}, func(raw json.RawMessage) error {
		_, err := fmt.Fprintf(out, "%s%s", separator, raw)
		separator = ",\n"
		return err
	})
	if err != nil {
		return err
	}
	if separator != ",\n" {
		_, err = io.WriteString(out, separator)
	}
	if err == nil {
		_, err = io.WriteString(out, "\n]}\n")
	}
	return err
}
