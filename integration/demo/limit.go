package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"nfqfw/integration"
)

const (
	limit   = 10  // max_src_conn
	flooded = 100 // how many connections the attacker wants
	// atOnce is what a person takes for it.
	atOnce = time.Second
)

// listen starts a server that accepts, counts and answers.
func (st *stage) listen(closeOnEOF bool) (*integration.AcceptCounter, error) {
	return st.Server.CountAccepts(web, integration.AcceptOptions{Echo: true, CloseOnEOF: closeOnEOF})
}

// hold opens connections, all at once.
func (st *stage) hold(ctx context.Context, from netip.Addr, n int) *integration.Holder {
	return st.Client.Hold(ctx, integration.HoldOptions{From: from, To: web, N: n, Concurrency: n})
}

func floodOpen(ctx context.Context, st *stage) error {
	srv, err := st.listen(false)
	if err != nil {
		return err
	}
	attack := st.hold(ctx, attacker, flooded)
	accepted := acceptedFrom(srv, attacker)
	st.report.saw("attacker %v: %s", attacker, outcomes(attack))
	st.report.saw("server: accept has returned %d times", accepted)
	return want("accepted by the server", accepted, flooded)
}

func floodLimited(ctx context.Context, st *stage) error {
	srv, err := st.listen(false)
	if err != nil {
		return err
	}
	attack := st.hold(ctx, attacker, flooded)
	other := st.hold(ctx, honest, 1)
	accepted := acceptedFrom(srv, attacker)
	st.report.saw("attacker %v: %s", attacker, outcomes(attack))
	st.report.saw("server: accept has returned %d times for the attacker", accepted)
	st.report.saw("honest %v: %v, answered after %s", honest, other.Attempts[0].Outcome, milliseconds(slowest(other)))
	return errors.Join(
		wantOutcomes("attacker", attack, limit),
		want("accepted by the server from the attacker", accepted, limit),
		wantOutcomes("honest client", other, 1))
}

// acceptedFrom counts the connections from an address that the server has
// accepted so far.
func acceptedFrom(srv *integration.AcceptCounter, from netip.Addr) int {
	n := 0
	for _, c := range srv.Conns() {
		if c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap() == from {
			n++
		}
	}
	return n
}

// outcomes tells what became of the attempts, and when the last was decided.
func outcomes(h *integration.Holder) string {
	held, reset := count(h)
	text := fmt.Sprintf("%d held, %d heard a reset", held, reset)
	switch len(h.Attempts) {
	case held:
		text = fmt.Sprintf("%d held", held)
	case held + reset:
	default:
		text = h.String()
	}
	return fmt.Sprintf("%s, the last after %s", text, milliseconds(slowest(h)))
}

// count returns how many are held and how many heard a reset, be it before
// connect succeeded or after.
func count(h *integration.Holder) (held, reset int) {
	return h.Count(integration.Held), h.Count(integration.Refused) + h.Count(integration.Reset)
}

// slowest is how long it took until the last attempt was decided.
func slowest(h *integration.Holder) time.Duration {
	var d time.Duration
	for _, a := range h.Attempts {
		d = max(d, a.Elapsed)
	}
	return d
}

// wantOutcomes returns an error unless so many attempts are held, all others
// heard a reset, and all that at once.
func wantOutcomes(who string, h *integration.Holder, wantHeld int) error {
	held, reset := count(h)
	return errors.Join(
		want(who+": held", held, wantHeld),
		want(who+": heard a reset", reset, len(h.Attempts)-wantHeld),
		soon(who+": the last outcome", slowest(h)))
}

// soon returns an error unless something happened at once.
func soon(what string, took time.Duration) error {
	if took < atOnce {
		return nil
	}
	return fmt.Errorf("%s: after %s, expected less than %s", what, milliseconds(took), milliseconds(atOnce))
}
