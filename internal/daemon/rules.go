package daemon

import (
	"context"
	"encoding/json"
	"fmt"

	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/packet"
)

// rules answers "nfqfw rules".
func (d *daemon) rules(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.RulesArgs
	if err := parseArgs("rules", raw, &args); err != nil {
		return err
	}
	var traffic map[string]*control.Counter
	if args.Counters {
		var err error
		if traffic, err = d.trafficByRule(ctx); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
	}
	others := &d.config.Load().Timeouts
	return d.engine.Rules(func(l *engine.ListedRule) error {
		r := listedRule(l)
		r.Text = l.Rule.Text(ownTimeouts(&l.Lifetimes, others))
		if traffic != nil {
			if r.Traffic = traffic[r.Name]; r.Traffic == nil {
				r.Traffic = &control.Counter{}
			}
		}
		return send(r)
	})
}

func listedRule(l *engine.ListedRule) *control.Rule {
	return &control.Rule{
		Number: l.Rule.Number, Name: l.Rule.Name, Gone: l.Gone,
		Evaluations: l.Evaluations, Created: l.Created, States: l.States, Nodes: l.Nodes,
		Refused: reasonCounts(&l.Refused), WouldRefuse: reasonCounts(&l.WouldRefuse),
	}
}

func reasonCounts(counts *[packet.ReasonCount]uint64) []control.ReasonCount {
	list := []control.ReasonCount{}
	for i, n := range counts {
		if n > 0 {
			list = append(list, control.ReasonCount{Reason: packet.Reason(i).String(), Count: n})
		}
	}
	return list
}

// trafficByRule is what the kernel has counted of the states of each rule, by the
// rule's name.
func (d *daemon) trafficByRule(ctx context.Context) (map[string]*control.Counter, error) {
	var all control.StateFilter
	kernel, err := openTraffic(d.many(&all))
	if err != nil {
		return nil, err
	}
	defer kernel.close()
	sums := make(map[string]*control.Counter)
	err = d.eachState(ctx, &all, func(l *engine.Listed) error {
		if !l.Offloaded {
			return nil
		}
		sum := sums[l.RuleName]
		if sum == nil {
			sum = &control.Counter{}
			sums[l.RuleName] = sum
		}
		c, _ := kernel.of(l.Tuple)
		sum.Packets += c.original.Packets + c.reply.Packets
		sum.Bytes += c.original.Bytes + c.reply.Bytes
		return nil
	})
	return sums, err
}
