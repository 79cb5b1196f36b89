package main

import (
	"bufio"
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

// filterFlags adds the filters of states that are no addresses.
func filterFlags(cmd *cobra.Command, f *control.StateFilter) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.Rules, "rule", nil, "only those of rule `NAME`; may be said again, for more rules")
	flags.Func("state", "only those in `SERVER:CLIENT`, of which one may be left out", func(text string) (err error) {
		f.State, err = control.ParseStatePattern(text)
		return err
	})
	flags.StringVar(&f.Interface, "iface", "", "only those that came in by interface `NAME`")
}

// client is what the commands that ask the daemon have in common.
type client struct {
	socket  string
	asJSON  bool
	verbose int
}

// flags adds the flags of them all; verbose says what -v shows, or is empty where there
// is no -v.
func (c *client) flags(cmd *cobra.Command, verbose string) {
	if verbose != "" {
		cmd.Flags().CountVarP(&c.verbose, "verbose", "v", verbose)
	}
	clientFlags(cmd, &c.socket, &c.asJSON)
}

// texter is what can be shown as text.
type texter[T any] interface {
	*T
	WriteText(w io.Writer, verbose int) error
}

// show asks the daemon, and shows each item of its answer: as text, if it is not to be
// JSON.
func show[T any, P texter[T]](cmd *cobra.Command, c *client, command string, args any) error {
	return buffered(cmd, func(out io.Writer) error {
		return control.Call(cmd.Context(), socketPath(c.socket), command, args, func(raw json.RawMessage) error {
			if c.asJSON {
				_, err := fmt.Fprintf(out, "%s\n", raw)
				return err
			}
			var item T
			if err := json.Unmarshal(raw, &item); err != nil {
				return fmt.Errorf("%s: %w", command, err)
			}
			return P(&item).WriteText(out, c.verbose)
		})
	})
}

// ask has the daemon do something, and gives what it says of it to f. If that is to be
// JSON, it is shown before, and f says whether it is a failure.
func ask[T any](cmd *cobra.Command, c *client, command string, args any, f func(*T) error) error {
	return control.Call(cmd.Context(), socketPath(c.socket), command, args, func(raw json.RawMessage) error {
		var done T
		if err := json.Unmarshal(raw, &done); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		if c.asJSON {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", raw); err != nil {
				return err
			}
		}
		return f(&done)
	})
}

// list is show for an answer of any number of items: in JSON they are one document,
// under the command's name.
func list[T any, P texter[T]](cmd *cobra.Command, c *client, command string, args any) error {
	if c.asJSON {
		return listJSON(cmd, c, command, args)
	}
	return show[T, P](cmd, c, command, args)
}

// listJSON writes the items as they come, so that a million of them need no memory
// here. A document that was cut off is no JSON.
func listJSON(cmd *cobra.Command, c *client, command string, args any) error {
	return buffered(cmd, func(out io.Writer) error {
		before, after := fmt.Sprintf("{%q:[", command), "]}\n"
		err := control.Call(cmd.Context(), socketPath(c.socket), command, args, func(raw json.RawMessage) error {
			_, err := fmt.Fprintf(out, "%s\n%s", before, raw)
			before, after = ",", "\n]}\n"
			return err
		})
		if err != nil {
			return err
		}
		if before != "," {
			after = before + after
		}
		_, err = io.WriteString(out, after)
		return err
	})
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
