package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nfqfw/internal/control"
)

// listings are what a fake daemon answers.
var listings = map[string]control.Handler{
	"states": states(twoStates), "info": info, "sources": items(threeSources...), "rules": threeRules,
	"timeouts": items(timeouts), "memory": items(memory), "refusals": refusals,
	"tables": listTables, "table": aTable,
}

// emptyListings are those of one that has nothing to tell; it is older, too.
var emptyListings = map[string]control.Handler{
	"states": states(nil), "sources": items[any](), "rules": items[any](),
	"refusals": items(control.Refusals{Refusals: []control.Refusal{}}),
}

// items answers with a few items, whatever it is asked.
func items[T any](list ...T) control.Handler {
	return func(_ context.Context, _ json.RawMessage, send func(any) error) error {
		for _, item := range list {
			if err := send(item); err != nil {
				return err
			}
		}
		return nil
	}
}

// states lists the states, or says what filter it was given.
func states(list []control.State) control.Handler {
	return func(_ context.Context, raw json.RawMessage, send func(any) error) error {
		var args control.StatesArgs
		if err := json.Unmarshal(raw, &args); err != nil {
			return err
		}
		if filter, _ := json.Marshal(args.Filter); string(filter) != "{}" {
			return fmt.Errorf("states: filter %s", filter)
		}
		out := control.NewStateSender(&args, send)
		for _, s := range list {
			if !args.Counters {
				s.Original, s.Reply = nil, nil
			}
			if err := out.Send(&s); err != nil {
				return err
			}
		}
		return out.Flush()
	}
}

func info(_ context.Context, _ json.RawMessage, send func(any) error) error {
	return send(control.Info{
		InKernel: control.InKernel{Active: true, Admitted: 706824},
		Status:   "enabled", Uptime: (49*time.Hour + 5*time.Minute + 6*time.Second).Seconds(),
		States: control.Usage{Current: 12, Limit: 100000}, Sources: control.Usage{Current: 3, Limit: 10000},
		Goroutines: 21,
		Counters:   []control.NamedCounter{{Name: "match", Packets: 1767060}, {Name: "bad-offset", Packets: 0}, {Name: "max-src-conn", Packets: 88353}},
		Losses:     []control.NamedCounter{{Name: "queue-dropped", Packets: 353412}, {Name: "segments-failed", Packets: 0}},
		Limits:     []control.NamedCounter{{Name: "max states per rule", Packets: 2}, {Name: "max-src-conn", Packets: 88353}},
		Syncookies: control.Syncookies{
			Mode: "adaptive", Sent: 50, InKernel: 20, Validated: 40, Invalid: 3, Pressure: control.Pressure{HalfOpen: 7, Start: 25000, End: 12000},
		},
		Adaptive: []control.Pressure{{Rule: "web", On: true, Since: &since, Switches: 3, HalfOpen: 90, Start: 127, End: 61}},
	})
}

func halfAnswer(ctx context.Context, args json.RawMessage, send func(any) error) error {
	if err := states(twoStates[:1])(ctx, args, send); err != nil {
		return err
	}
	return errors.New("states: the daemon is stopping")
}

func panics(context.Context, json.RawMessage, func(any) error) error { panic("odd") }

var (
	seven = uint8(7)
	since = 95.0
)

var twoStates = []control.State{
	{
		ID: "00000000000000ab", Interface: "eth0", Protocol: "tcp", State: "ESTABLISHED:FIN_WAIT_2",
		Source: control.Peer{Address: netip.MustParseAddr("198.51.100.7"), Port: 62709, State: "FIN_WAIT_2",
			SeqLo: 1000, SeqHi: 66536, WScale: &seven},
		Dest: control.Peer{Address: netip.MustParseAddr("192.0.2.10"), Port: 80, State: "ESTABLISHED",
			SeqLo: 4294967290, SeqHi: 10, SeqDiff: 4000000000, WScale: new(uint8)},
		Counts: true, Proxied: true, Rule: "web", Number: 1, Age: 90061.5, Expires: 44.9, Timeout: "tcp.closing",
		Original: &control.Counter{Packets: 5, Bytes: 400}, Reply: &control.Counter{Packets: 7, Bytes: 9000},
	},
	{
		ID: "00000000000000ac", Interface: "all", Protocol: "tcp", State: "PROXY:SRC",
		Source: control.Peer{Address: netip.MustParseAddr("2001:db8:1::7"), Port: 62709, State: "PROXY:SRC"},
		Dest:   control.Peer{Address: netip.MustParseAddr("2001:db8::10"), Port: 443, State: "CLOSED"},
		Rule:   "a <b>", Number: 12, Timeout: "tcp.first",
	},
}

var threeSources = []control.Source{
	{
		Source: netip.MustParsePrefix("198.51.100.7/32"), Rule: "web", Number: 1, States: 12, Connections: 10,
		Recent: 97, Rate: &control.Rate{Count: 100, Seconds: 10}, Age: 3723.5,
	},
	{
		Source: netip.MustParsePrefix("203.0.113.0/24"), Rule: "old", Age: 60, Expires: new(29.5),
		Recent: 1, Rate: &control.Rate{Count: 2, Seconds: 0.5},
	},
	{Source: netip.MustParsePrefix("2001:db8:1::/64"), States: 1, Connections: 1, Age: 1},
}

func threeRules(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.RulesArgs
	if err := json.Unmarshal(raw, &args); err != nil {
		return err
	}
	none := []control.ReasonCount{}
	list := []control.Rule{
		{
			Number: 1, Name: "web", Text: `pass in quick on eth0 proto tcp from any to 192.0.2.10 port 80 flags S/SA synproxy state (max-src-conn 10) label "web"`,
			Evaluations: 12345, Created: 678, States: 12, Nodes: 3,
			Refused:     []control.ReasonCount{{Reason: "max-src-conn", Count: 88353}, {Reason: "src-limit", Count: 1}},
			WouldRefuse: none,
		},
		{Number: 2, Name: "bad", Text: `block drop in proto tcp from 2001:db8:bad::/48 to any label "bad"`, Refused: none, WouldRefuse: none},
		{
			Number: 3, Name: "try", Text: `pass in proto tcp from any to any flags S/SA keep state (max 5) label "try"`, Gone: true, States: 7,
			Refused: none, WouldRefuse: []control.ReasonCount{{Reason: "max", Count: 2}},
		},
	}
	if args.Counters {
		list[0].Traffic = &control.Counter{Packets: 1767060, Bytes: 353412000}
	}
	return items(list...)(ctx, raw, send)
}

var timeouts = control.Timeouts{Timeouts: []control.Timeout{
	{Name: "tcp.first", Value: 120, Unit: "seconds"},
	{Name: "tcp.established", Value: 432000, Unit: "seconds"},
	{Name: "tcp.closed", Value: 0.5, Unit: "seconds"},
	{Name: "adaptive.start", Value: 60000, Unit: "states"},
	{Name: "src.track", Value: 0, Unit: "seconds"},
}}

var memory = control.Memory{Limits: []control.HardLimit{
	{Name: "states", Limit: 100000}, {Name: "src-nodes", Limit: 10000}, {Name: "table-entries", Limit: 123456789},
}}

// refusals lists some, or says what it was asked for.
func refusals(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	if string(raw) != "{}" {
		return fmt.Errorf("refusals: %s", raw)
	}
	at := time.Date(2026, 1, 2, 15, 4, 5, 250e6, time.UTC)
	to := func(text string) control.End {
		a := netip.MustParseAddrPort(text)
		return control.End{Address: a.Addr(), Port: a.Port()}
	}
	four, six, web := to("198.51.100.7:62709"), to("[2001:db8:1::7]:62709"), to("192.0.2.10:80")
	return send(control.Refusals{Lost: 353412, Refusals: []control.Refusal{
		{Time: at, Source: four, Dest: web, Reason: "max-src-conn", Rule: "web", Count: 10, Limit: 10, Enforced: true},
		{Time: at.Add(time.Second), Source: six, Dest: to("[2001:db8::10]:443"), Reason: "block", Rule: "bad", Enforced: true},
		{Time: at.Add(time.Minute), Source: four, Dest: web, Reason: "max-src-conn-rate", Rule: "try", Count: 100, Limit: 100, Window: 10},
		{Time: at.Add(time.Minute), Source: four, Dest: web, Reason: "max-src-conn-rate", Rule: "web", Count: 5, Limit: 5, Window: 0.5, Enforced: true},
		{Time: at.Add(time.Hour), Source: four, Dest: web, Reason: "src-limit", Count: 10000, Limit: 10000, Enforced: true},
	}})
}
