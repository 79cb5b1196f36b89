package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"nfqfw/internal/control"
)

// listTables is a fake daemon's.
func listTables(_ context.Context, _ json.RawMessage, send func(any) error) error {
	if err := send(control.Table{Name: "abusers", Entries: 3, TTL: 3600}); err != nil {
		return err
	}
	return send(control.Table{Name: "friends"})
}

// aTable has two entries; it adds, deletes and finds all but the first address.
func aTable(_ context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.TableArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return err
	}
	switch {
	case args.Table != "abusers":
		return fmt.Errorf("table: no table %q; there are abusers, friends", args.Table)
	case args.TTL != nil:
		return fmt.Errorf("table: ttl %v", *args.TTL)
	case args.Command != control.TableShow:
		return send(control.TableDone{Table: args.Table, Command: args.Command, Given: len(args.Addresses), Done: max(len(args.Addresses)-1, 0)})
	}
	e := control.TableEntry{Address: "198.51.100.7", Origin: "overload", Cleared: time.Date(2026, 11, 5, 7, 8, 9, 0, time.Local), Expires: &since}
	if args.Counters {
		e.InBlock = &control.Counter{Packets: 12, Bytes: 720}
	}
	if err := send(e); err != nil {
		return err
	}
	return send(control.TableEntry{Address: "2001:db8::/32", Negated: true, Origin: "file", Cleared: e.Cleared})
}
