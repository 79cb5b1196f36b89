package main

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"nfqfw/integration"
)

const (
	// Many workers that pause long, so that those who wait do not keep others from
	// being measured.
	honestWorkers = 64
	honestPause   = 160 * time.Millisecond
	// honestMost is more than the workers come to in any time.
	honestMost = 20_000
	// floodLead is how long the flood is alone.
	floodLead = 300 * time.Millisecond
)

const (
	synFlood = integration.FloodSYN
	ackFlood = integration.FloodACK
)

// floodOf returns what measures honest connections beside a flood.
func floodOf(k integration.FloodKind, rate int) func(context.Context, *stage) (values, error) {
	return func(ctx context.Context, st *stage) (values, error) {
		if err := st.Server.AnswerShort(web); err != nil {
			return nil, err
		}
		flooding, stop := context.WithCancel(ctx)
		defer stop()
		var flood integration.FloodResult
		var failed error
		done := make(chan struct{})
		go func() {
			defer close(done)
			flood, failed = st.Flood(flooding, integration.FloodOptions{
				Kind: k, To: st.to, Rate: rate, Most: math.MaxInt,
				Duration: floodLead + st.flood + 2*integration.ShortTimeout, // bounds it if stop does not
			})
		}()
		time.Sleep(floodLead)
		honest := st.honest(ctx)
		stop()
		<-done
		if failed != nil || ctx.Err() != nil {
			return nil, errors.Join(failed, ctx.Err())
		}
		found := served(honest)
		found["rate"] = flood.Rate()
		return found, st.addLost(ctx, found)
	}
}

// addLost adds how many packets the firewall never saw, or could not answer.
func (st *stage) addLost(ctx context.Context, found values) error {
	if st.firewall == nil {
		return nil
	}
	i, err := st.firewall.Info(ctx)
	for _, c := range i.Losses {
		found["lost"] += float64(c.Packets)
	}
	return err
}

// honest has clients connect for a while.
func (st *stage) honest(ctx context.Context) *integration.ShortResult {
	ctx, cancel := context.WithTimeout(ctx, st.flood)
	defer cancel()
	load := st.shortLoad(honestMost, honestWorkers)
	load.Pause, load.Patience = honestPause, honestMost
	return load.Run(ctx)
}

// served says how many got an answer and how fast; who got none is among the slowest.
func served(r *integration.ShortResult) values {
	all := *r
	all.Took = slices.Clone(r.Took)
	for range r.Failures {
		all.Took = append(all.Took, integration.ShortTimeout)
	}
	slices.Sort(all.Took)
	return values{
		"served": 100 * float64(len(r.Took)) / float64(max(len(all.Took), 1)), "tried": float64(len(all.Took)),
		"p50": milliseconds(all.Percentile(50)), "p99": milliseconds(all.Percentile(99)),
	}
}
