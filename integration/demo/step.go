package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stepTimeout bounds a step that hangs.
const stepTimeout = 30 * time.Second

// A step shows one thing.
type step struct {
	title  string
	does   []string // what it does, by line
	expect []string // what one should see
	policy string   // the state policy of the rule; empty: without nfqfw
	last   bool     // played without a lab, after everything else and after a failure too
	run    func(context.Context, *stage) error
}

// unprotected are the steps before nfqfw comes.
var unprotected = []step{
	{
		title:  "The lab and the configuration",
		does:   []string{"builds the lab and has nfqfw check the configuration"},
		expect: []string{"no error in it"},
		run:    showLab,
	},
	{
		title:  "Without nfqfw: one client, 100 connections",
		does:   []string{"the attacker opens 100 connections at once and holds them"},
		expect: []string{"the server accepts all 100: one client holds 100 workers"},
		run:    floodOpen,
	},
	{
		title: "Without nfqfw: Slowloris against Apache (prefork, 100 workers)",
		does: []string{
			"slowhttptest opens 150 connections and never finishes its requests;",
			"then the honest client asks for a page with curl, and waits for 2 s",
		},
		expect: []string{"all 100 workers busy with the attacker, and no page for the honest client"},
		run:    slowlorisWins,
	},
}

// protected are the steps with nfqfw on the gateway, played once for every
// policy.
var protected = append([]step{
	{
		title: "One client, 100 connections, max_src_conn = 10",
		does: []string{
			"the attacker opens 100 connections at once and holds what it gets;",
			"meanwhile the honest client opens one",
		},
		expect: []string{"the server accepts exactly 10 of the 100; 90 hear a reset, at once; the honest client is served"},
		run:    floodLimited,
	},
	{
		title:  "Slowloris against Apache (prefork, 100 workers), max_src_conn = 10",
		does:   []string{"slowhttptest as before; then the honest client asks for a page with curl"},
		expect: []string{"never more than 10 workers busy with the attacker; the honest client served within a second"},
		run:    slowlorisLimited,
	},
}, append(closingSteps(), step{
	title:  "Payload stays in the kernel",
	does:   []string{"the honest client downloads 200 MB over one connection and closes it"},
	expect: []string{"a handful of packets in user space: the handshake and the closing"},
	run:    showPayload,
})...)

// farewell is the last step.
var farewell = step{
	title:  "Nothing is left behind",
	does:   []string{"looks for namespaces, processes and files of the demo, and for iptables chains on this machine"},
	expect: []string{"none; and every nfqfw took its hooks along when it was asked to end (SIGTERM)"},
	last:   true,
	run:    showLeftovers,
}

// plan is the whole demo.
func plan(policies []string) []step {
	steps := append([]step(nil), unprotected...)
	for _, policy := range policies {
		for _, s := range protected {
			s.policy = policy
			steps = append(steps, s)
		}
	}
	return append(steps, farewell)
}

// play plays all steps up to the first that fails, and the last in any case.
func play(ctx context.Context, opts options, r *report) error {
	d := &demo{options: opts, report: r}
	if err := d.traces.begin(ctx); err != nil {
		return err
	}
	r.opening()
	start := time.Now()
	var failed error
	policy := ""
	steps := plan(opts.policies)
	for i, s := range steps {
		if failed != nil && !s.last {
			continue
		}
		if s.policy != policy && !s.last {
			policy = s.policy
			r.heading(fmt.Sprintf("With nfqfw on the gateway, state = %q", policy))
		}
		if err := d.play(ctx, i+1, s); err != nil && failed == nil {
			failed = fmt.Errorf("step %d (%s): %w", i+1, s.title, err)
		}
	}
	if failed == nil {
		r.ending(len(steps), time.Since(start))
	}
	return failed
}

// demo is what all steps share.
type demo struct {
	options
	report *report
	traces traces
}

// play plays one step on a stage of its own.
func (d *demo) play(ctx context.Context, number int, s step) error {
	d.report.begin(number, s)
	start := time.Now()
	err := d.perform(ctx, s)
	if ctx.Err() != nil && !s.last {
		err = errors.New("interrupted")
	}
	d.report.end(err, time.Since(start))
	return err
}

func (d *demo) perform(ctx context.Context, s step) error {
	if s.last {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	st, err := d.open(ctx, s)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }() // for a step that panics
	if err = s.run(ctx, st); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		st.showLog()
	}
	return errors.Join(err, st.close())
}
