package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newStates() *cobra.Command {
	var (
		c      client
		filter control.StateFilter
	)
	cmd := &cobra.Command{
		Use:   "states",
		Short: "List the states, as pfctl -ss does",
		Long: `List the states, as pfctl -ss does: interface, protocol, server, client, and the
state of either side, the server's first. Of several filters all have to hold.

Packets and octets (-v, --json) are the kernel's, which takes some seconds for a
million states.`,
		Example: `  nfqfw states --rule web --source 198.51.100.0/24
  nfqfw states --dest 192.0.2.10:443 --state ESTABLISHED:FIN_WAIT_2
  nfqfw states --state FIN_WAIT_2:          # whatever the client's side`,
		Args: noArgs,
		RunE: does(func(cmd *cobra.Command) error {
			if c.asJSON {
				return listJSON(cmd, &c, "states", control.StatesArgs{Counters: true, Filter: filter})
			}
			return writeStates(cmd, &c, filter)
		}),
	}
	networkFlag(cmd, "source", &filter.Source, "only those from `HOST|NET`, the client")
	cmd.Flags().Func("dest", "only those to `HOST|NET[:PORT]`, the server, or to :PORT", func(text string) (err error) {
		filter.Dest, err = control.ParseEndpoint(text)
		return err
	})
	filterFlags(cmd, &filter)
	c.flags(cmd, "show windows, ages and counters; twice: identities too")
	return cmd
}

// writeStates writes the text that the daemon has made of the states.
func writeStates(cmd *cobra.Command, c *client, filter control.StateFilter) error {
	args := control.StatesArgs{Counters: c.verbose > 0, Text: true, Verbose: c.verbose, Filter: filter}
	return buffered(cmd, func(out io.Writer) error {
		return control.Call(cmd.Context(), socketPath(c.socket), "states", args, func(raw json.RawMessage) error {
			var text string
			if err := json.Unmarshal(raw, &text); err != nil {
				return fmt.Errorf("states: %w", err)
			}
			_, err := io.WriteString(out, text)
			return err
		})
	})
}
