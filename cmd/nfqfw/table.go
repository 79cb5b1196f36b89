package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
)

// tableCommands are what can be done to a table, and whether it takes addresses.
var tableCommands = map[string]bool{
	control.TableShow: false, control.TableAdd: true, control.TableDelete: true, control.TableTest: true, control.TableFlush: false,
}

func newTable() *cobra.Command {
	var (
		c    client
		ttl  time.Duration
		args control.TableArgs
	)
	cmd := &cobra.Command{
		Use:   "table [NAME show|flush | NAME add|delete|test ADDRESS...]",
		Short: "List the tables, or look at one or change it, as pfctl -t NAME -T does",
		Long: `List the tables, or look at one or change it, as pfctl -t NAME -T does.

  show     list the entries
  add      add addresses or networks, with ! before those that the table shall not hold
  delete   delete entries; those of the configuration come back with the next reload
  test     say how many of the addresses the table holds; exit code 1 if it is not all
  flush    delete all entries

If one address is wrong, all are told that are, and nothing is done. An address or
network with ! is written in quotes for the sake of the shell.`,
		Example: `  nfqfw table
  nfqfw table abusers show -v
  nfqfw table abusers add 198.51.100.7 2001:db8:1::/64 --ttl 1h
  nfqfw table abusers test 198.51.100.7`,
		Args: func(cmd *cobra.Command, words []string) error { return parseTable(cmd, words, ttl, &args) },
		RunE: does(func(cmd *cobra.Command) error {
			switch {
			case args.Table == "":
				return list[control.Table](cmd, &c, "tables", nil)
			case args.Command == control.TableShow:
				args.Counters = c.verbose > 0 || c.asJSON
				return list[control.TableEntry](cmd, &c, "table", args)
			}
			return doTable(cmd, &c, args)
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "add: for this `TIME` instead of the table's ttl, such as 90s or 24h; 0 for ever")
	c.flags(cmd, "show ages and counters too; of tables how many entries they have")
	return cmd
}

// parseTable reads what is to be done, and to which table; nothing if there are no words.
func parseTable(cmd *cobra.Command, words []string, ttl time.Duration, args *control.TableArgs) error {
	if cmd.Flags().Changed("ttl") {
		switch {
		case len(words) < 2 || words[1] != control.TableAdd:
			return misuse(cmd, "--ttl is for add")
		case ttl != 0 && ttl < time.Second || ttl > config.MaxTTL:
			return misuse(cmd, fmt.Sprintf("--ttl: %s is not 0, or from 1s to %s", ttl, config.MaxTTL))
		}
		seconds := ttl.Seconds()
		args.TTL = &seconds
	}
	if len(words) == 0 {
		return nil
	}
	if len(words) == 1 {
		return misuse(cmd, fmt.Sprintf("say what to do with the table %s: show, add, delete, test or flush", words[0]))
	}
	args.Table, args.Command, args.Addresses = words[0], words[1], words[2:]
	takes, known := tableCommands[args.Command]
	switch {
	case !known:
		return misuse(cmd, fmt.Sprintf("%q is not show, add, delete, test or flush", args.Command))
	case takes && len(args.Addresses) == 0:
		return misuse(cmd, args.Command+": no address given")
	case !takes && len(args.Addresses) > 0:
		return misuse(cmd, fmt.Sprintf("%s takes no addresses, but was given %q", args.Command, args.Addresses[0]))
	}
	return nil
}

// errNoMatch has no words: the summary has told.
var errNoMatch = errors.New("")

// doTable has the daemon do it, and tells on stderr what was done, as pfctl does.
func doTable(cmd *cobra.Command, c *client, args control.TableArgs) error {
	return ask(cmd, c, "table", args, func(done *control.TableDone) error {
		if !c.asJSON {
			if err := done.WriteText(cmd.ErrOrStderr()); err != nil {
				return err
			}
		}
		if done.Command == control.TableTest && done.Done < done.Given {
			return errNoMatch
		}
		return nil
	})
}
