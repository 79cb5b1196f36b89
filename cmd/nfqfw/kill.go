package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"nfqfw/internal/control"
)

func newKill() *cobra.Command {
	var (
		c    client
		all  bool
		id   string
		args control.KillArgs
	)
	cmd := &cobra.Command{
		Use:   "kill HOST|NET [HOST|NET[:PORT]]",
		Short: "End connections, as pfctl -k does, and reset both ends",
		Long: `End the connections from a client or network of clients, and, if a second one is
named, to that server or network of servers only. They count no more at once. Both
ends are reset, which pfctl -k does not do; --silent leaves them to find out.

Of several selections all have to hold.`,
		Example: `  nfqfw kill 198.51.100.7
  nfqfw kill 0.0.0.0/0 192.0.2.10:443
  nfqfw kill --rule web --state FIN_WAIT_2:ESTABLISHED
  nfqfw kill --id 000000000000002a          # as nfqfw states -vv shows it
  nfqfw kill --all`,
		Args: func(cmd *cobra.Command, words []string) error { return parseKill(cmd, words, id, all, &args) },
		RunE: does(func(cmd *cobra.Command) error {
			return ask(cmd, &c, "kill", args, func(k *control.Killed) error {
				if c.asJSON {
					return nil
				}
				return k.WriteText(cmd.ErrOrStderr(), cmd.Flags().NArg())
			})
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&all, "all", false, "all connections, as pfctl -F states does")
	flags.StringVar(&id, "id", "", "the connection of this `ID`, 16 hexadecimal digits")
	filterFlags(cmd, &args.Filter)
	flags.BoolVar(&args.Silent, "silent", false, "forget the states, and tell neither end")
	c.flags(cmd, "")
	return cmd
}

// parseKill reads what is to be killed, of which there has to be something.
func parseKill(cmd *cobra.Command, words []string, id string, all bool, args *control.KillArgs) (err error) {
	if args.ID, err = parseID(id); err != nil {
		return misuse(cmd, "--id: "+err.Error())
	}
	if err := parseEnds(cmd, words, &args.Filter); err != nil {
		return err
	}
	if chooses := args.ID != 0 || args.Filter.Chooses(); chooses == all {
		return misuse(cmd, "name what to kill, or --all for everything, and not both")
	}
	return nil
}

// parseID reads an ID as it is listed; the empty one is 0, which no state has.
func parseID(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%q is not the ID of a state (1 to 16 hexadecimal digits, not all 0)", text)
	}
	return id, nil
}

// parseEnds reads the client and the server of the connections to kill.
func parseEnds(cmd *cobra.Command, words []string, f *control.StateFilter) (err error) {
	if len(words) > 2 {
		return misuse(cmd, fmt.Sprintf("takes a client and a server, but was given %d words", len(words)))
	}
	if len(words) > 0 {
		if f.Source, err = control.ParseNetwork(words[0]); err != nil {
			return misuse(cmd, fmt.Sprintf("%q: %v", words[0], err))
		}
	}
	if len(words) > 1 {
		if f.Dest, err = control.ParseEndpoint(words[1]); err != nil {
			return misuse(cmd, fmt.Sprintf("%q: %v", words[1], err))
		}
	}
	return nil
}
