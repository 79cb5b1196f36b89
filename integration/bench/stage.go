package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"nfqfw/integration"
)

// limit is how many connections a peer allows a source: more than any load has.
const limit = 1000

// stage is a lab with a peer on its gateway, for one measurement.
type stage struct {
	*integration.Lab
	size

	binary   string         // the firewall's
	to       netip.AddrPort // what clients connect to
	daemon   int            // the peer's process, 0 if it is the kernel
	firewall *integration.Firewall
	haproxy  *integration.HAProxy
}

// openStage builds a lab and puts the peer there. The caller closes the stage.
func openStage(ctx context.Context, binary string, z size, p peer, limit int) (*stage, error) {
	lab, err := integration.Open(integration.Options{})
	if err != nil {
		return nil, fmt.Errorf("build the lab: %w", err)
	}
	st := &stage{Lab: lab, size: z, binary: binary, to: web}
	if err := p.set(ctx, st, limit); err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", p.name, err), st.close())
	}
	return st, nil
}

// close ends the peer and removes the lab.
func (st *stage) close() error {
	var err error
	if st.firewall != nil {
		if err = st.firewall.Stop(); err != nil {
			err = fmt.Errorf("stop nfqfw: %w\n%s", err, st.firewall.Log())
		}
	}
	return errors.Join(err, st.Lab.Close())
}
