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
		Args:  noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			out := bufio.NewWriter(cmd.OutOrStdout())
			list := listText
			if asJSON {
				list = listJSON
			}
			err := list(cmd.Context(), socketPath(socket), out, verbose)
			if flushErr := out.Flush(); err == nil {
				err = flushErr
			}
			return err
		}),
	}
	cmd.Flags().CountVarP(&verbose, "verbose", "v", "show windows, ages and counters; twice: identities too")
	clientFlags(cmd, &socket, &asJSON)
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
// memory here. A document that was cut off is no JSON.
func listJSON(ctx context.Context, socket string, out io.Writer, _ int) error {
	begin, end := `{"states":[`, "]}\n"
	err := control.Call(ctx, socket, "states", control.StatesArgs{Counters: true}, func(raw json.RawMessage) error {
		_, err := fmt.Fprintf(out, "%s\n%s", begin, raw)
		begin, end = ",", "\n]}\n"
		return err
	})
	if err != nil {
		return err
	}
	if begin != "," {
		end = begin + end
	}
	_, err = io.WriteString(out, end)
	return err
}
