package main

import (
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
		filter  control.StateFilter
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
			args := control.StatesArgs{Counters: verbose > 0, Text: true, Verbose: verbose, Filter: filter}
			write := listStates
			if asJSON {
				args = control.StatesArgs{Counters: true, Filter: filter}
				write = listJSON
			}
			return buffered(cmd, func(out io.Writer) error {
				return write(cmd.Context(), socketPath(socket), "states", args, out)
			})
		}),
	}
	flags := cmd.Flags()
	flags.CountVarP(&verbose, "verbose", "v", "show windows, ages and counters; twice: identities too")
	flags.StringArrayVar(&filter.Rules, "rule", nil, "only those of the rule of this `NAME`; may be said again, for more rules")
	networkFlag(cmd, "source", &filter.Source, "only those from this client `HOST|NET`")
	flags.Func("dest", "only those to this server `HOST|NET[:PORT]`, or :PORT", func(text string) (err error) {
		filter.Dest, err = control.ParseEndpoint(text)
		return err
	})
	stateFlag(cmd, &filter.State)
	flags.StringVar(&filter.Interface, "iface", "", "only those that came in by the interface of this `NAME`")
	clientFlags(cmd, &socket, &asJSON)
	return cmd
}

// listStates writes the text that the daemon has made of the states.
func listStates(ctx context.Context, socket, command string, args any, out io.Writer) error {
	return control.Call(ctx, socket, command, args, func(raw json.RawMessage) error {
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		_, err := io.WriteString(out, text)
		return err
	})
}
