package daemon

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
	"nfqfw/internal/refusal"
)

// refusalsKept is how many refusals are remembered: about a mebibyte.
const refusalsKept = 10_000

// remember keeps what a rule or a limit has refused, for "nfqfw refusals".
func (d *daemon) remember(now time.Duration, t packet.Tuple, r *engine.Refusal) {
	if r.Reason == packet.ReasonMatch {
		return
	}
	d.lastRefusals.Add(&refusal.Refusal{
		At: now, Tuple: t, Reason: r.Reason, Rule: r.Rule,
		Count: r.Count, Limit: r.Limit, Window: r.Window, Enforced: r.Enforced,
	})
}

// refusals answers "nfqfw refusals".
func (d *daemon) refusals(_ context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.RefusalsArgs
	if err := parseArgs("refusals", raw, &args); err != nil {
		return err
	}
	now, since := d.now(), time.Duration(0)
	if args.Since > 0 && args.Since < now.Seconds() {
		since = now - time.Duration(args.Since*float64(time.Second))
	}
	list, lost := d.lastRefusals.Since(since)
	if err := d.knowRules("refusals", args.Rules, rulesOf(list)...); err != nil {
		return err
	}
	answer := control.Refusals{Refusals: []control.Refusal{}, Lost: lost}
	clock := time.Now()
	for i := range list {
		one := &list[i]
		if len(args.Rules) > 0 && !slices.Contains(args.Rules, one.Rule) || !control.Within(args.Source, one.Tuple.Src.Netip()) {
			continue
		}
		answer.Refusals = append(answer.Refusals, listedRefusal(one, clock.Add(one.At-now)))
	}
	return send(&answer)
}

// rulesOf are the names of the rules that refused.
func rulesOf(list []refusal.Refusal) (names []string) {
	seen := make(map[string]bool)
	for i := range list {
		if name := list[i].Rule; name != "" && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

func listedRefusal(r *refusal.Refusal, at time.Time) control.Refusal {
	return control.Refusal{
		Time: at.Round(time.Millisecond), Reason: r.Reason.String(), Rule: r.Rule,
		Source: control.End{Address: r.Tuple.Src.Netip(), Port: r.Tuple.SrcPort},
		Dest:   control.End{Address: r.Tuple.Dst.Netip(), Port: r.Tuple.DstPort},
		Count:  r.Count, Limit: r.Limit, Window: r.Window.Seconds(), Enforced: r.Enforced,
	}
}
