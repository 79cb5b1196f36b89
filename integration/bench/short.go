package main

import (
	"context"
	"errors"
	"time"

	"nfqfw/integration"
)

const (
	shortWorkers = 32
	// shortPatience is how many connections may fail before a load is given up.
	shortPatience = 500
)

// runShort has clients make one short connection after the other.
func runShort(ctx context.Context, st *stage) (values, error) {
	if err := st.Server.AnswerShort(web); err != nil {
		return nil, err
	}
	m, err := startMeter(st.daemon)
	if err != nil {
		return nil, err
	}
	load := st.shortLoad(st.connections, shortWorkers)
	ctx, cancel := context.WithTimeout(ctx, st.shortTime)
	defer cancel()
	r := load.Run(ctx)
	machine, daemon, err := m.stop()
	if err != nil {
		return nil, err
	}
	if len(r.Took) == 0 {
		return nil, errors.Join(append(r.Failures[:min(len(r.Failures), 3)], errors.New("no connection was answered"))...)
	}
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(len(r.Took)) }
	return values{
		"rate": r.Rate(), "p50": milliseconds(r.Percentile(50)), "p99": milliseconds(r.Percentile(99)),
		"stalls": float64(r.Stalls()), "failed": float64(len(r.Failures)),
		"cpu": each(machine), "daemon": each(daemon),
	}, nil
}

// shortLoad is a load of connections from one client, each from a port of its own.
func (st *stage) shortLoad(connections, workers int) *integration.ShortLoad {
	return &integration.ShortLoad{
		Client: st.Client, From: integration.ClientAddr(integration.IPv4, 0), To: st.to,
		Connections: connections, Ports: connections, Workers: workers, Patience: shortPatience,
	}
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
