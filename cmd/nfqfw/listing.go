package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

// networkFlag adds a filter by address.
func networkFlag(cmd *cobra.Command, name string, network *netip.Prefix, usage string) {
	cmd.Flags().Func(name, usage, func(text string) (err error) {
		*network, err = control.ParseNetwork(text)
		return err
	})
}

// stateFlag adds a filter by the peers' states.
func stateFlag(cmd *cobra.Command, pattern *control.StatePattern) {
	cmd.Flags().Func("state", "those in these `SERVER:CLIENT` states, of which one may be left out", func(text string) (err error) {
		*pattern, err = control.ParseStatePattern(text)
		return err
	})
}

// texter is an item that a listing shows.
type texter interface {
	WriteText(w io.Writer, verbose int) error
}

// listText writes the items of type T that the daemon answers with.
func listText[T any, P interface {
	*T
	texter
}](ctx context.Context, socket, command string, args any, verbose int, out io.Writer) error {
	return control.Call(ctx, socket, command, args, func(raw json.RawMessage) error {
		var item T
		if err := json.Unmarshal(raw, &item); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		return P(&item).WriteText(out, verbose)
	})
}

// listJSON writes the items as they come, in one document under the command's name.
// A document that was cut off is no JSON.
func listJSON(ctx context.Context, socket, command string, args any, out io.Writer) error {
	begin, end := fmt.Sprintf("{%q:[", command), "]}\n"
	isFirst := true
	err := control.Call(ctx, socket, command, args, func(raw json.RawMessage) error {
		if _, err := fmt.Fprintf(out, "%s\n%s", begin, raw); err != nil {
			return err
		}
		begin, end, isFirst = ",", "\n]}\n", false
		return nil
	})
	if err != nil {
		return err
	}
	if isFirst {
		end = begin + end
	}
	_, err = io.WriteString(out, end)
	return err
}

// buffered gives f a buffered output, and writes what it has left there also when it
// failed.
func buffered(cmd *cobra.Command, f func(out io.Writer) error) error {
	out := bufio.NewWriter(cmd.OutOrStdout())
	err := f(out)
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	return err
}
