package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"nfqfw/integration"
	"nfqfw/internal/hooks"
)

// Who plays.
var (
	attacker = integration.ClientAddr(integration.IPv4, 0)
	honest   = integration.ClientAddr(integration.IPv4, 1)
	web      = netip.AddrPortFrom(integration.ServerAddr(integration.IPv4), 80)
)

// stage is what a step plays on: a lab of its own, so that no step owes
// anything to the one before it, and nfqfw on its gateway.
type stage struct {
	*demo
	*integration.Lab                       // nil in the last step
	firewall         *integration.Firewall // nil without a policy

	// close ends nfqfw, looks that it took its chains along, and removes the
	// lab. A second close does nothing.
	close func() error
}

// open sets the stage for a step.
func (d *demo) open(ctx context.Context, s step) (*stage, error) {
	st := &stage{demo: d}
	st.close = sync.OnceValue(func() error { return st.strike(context.WithoutCancel(ctx)) })
	if s.last {
		return st, nil
	}
	var err error
	if st.Lab, err = integration.Open(integration.Options{}); err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	if s.policy == "" {
		return st, nil
	}
	st.firewall, err = st.Gateway.StartFirewall(ctx, d.binary, configuration(s.policy))
	if err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

func (st *stage) strike(ctx context.Context) error {
	if st.Lab == nil {
		return nil
	}
	err := st.traces.count(ctx, st)
	if st.firewall != nil {
		err = errors.Join(err, st.firewall.Stop(), st.noChains(ctx))
	}
	return errors.Join(err, st.Lab.Close())
}

// noChains returns an error if nfqfw, which has ended, left chains on the
// gateway, but for those that keep open connections going.
func (st *stage) noChains(ctx context.Context) error {
	list, err := gatewayChains(ctx, st.Gateway)
	list = slices.DeleteFunc(list, func(chain string) bool {
		return chain == "chain "+hooks.Translation || chain == "chain "+hooks.Closing
	})
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("nfqfw has ended, but left chains on the gateway: %s", strings.Join(list, ", "))
	}
	return err
}

// showLog shows the end of nfqfw's log.
func (st *stage) showLog() {
	const most = 5
	if st.firewall == nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(st.firewall.Log()), "\n")
	for _, line := range lines[max(0, len(lines)-most):] {
		st.report.saw("nfqfw's log: %s", line)
	}
}

// want returns an error unless a number is as expected.
func want(what string, got, expected int) error {
	if got == expected {
		return nil
	}
	return fmt.Errorf("%s: %d, expected %d", what, got, expected)
}
