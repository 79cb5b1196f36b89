package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"nfqfw/integration"
)

// closing is a way in which a connection dies.
type closing struct {
	state  string // as nfqfw shows it: server first
	story  string
	counts bool // for max_src_conn, as the server still has it open
	// serverFollows makes the server close when the client has.
	serverFollows bool
	// by lists the ends that are closed, those of the client or the server.
	by func(client, server []*net.TCPConn) []*net.TCPConn
	// half leaves the other direction open.
	half bool
}

func byClient(client, _ []*net.TCPConn) []*net.TCPConn { return client }
func byServer(_, server []*net.TCPConn) []*net.TCPConn { return server }

var closings = []closing{
	{
		state: "FIN_WAIT_2:FIN_WAIT_2", story: "client and server have both closed",
		serverFollows: true, by: byClient,
	},
	{
		state: "ESTABLISHED:FIN_WAIT_2", story: "the client has closed, the server still holds them",
		counts: true, by: byClient, half: true,
	},
	{
		state: "FIN_WAIT_2:ESTABLISHED", story: "the server has closed, the client has not",
		by: byServer,
	},
}

// closingSteps makes a step of every closing.
func closingSteps() []step {
	var steps []step
	for _, c := range closings {
		verdict, outcome := "does not count", "all ten new ones get in, at once"
		if c.counts {
			verdict, outcome = "counts", "not one of the ten new ones gets in"
		}
		steps = append(steps, step{
			title:  fmt.Sprintf("Dying connections: %s %s", c.state, verdict),
			does:   []string{"one client opens ten connections; " + c.story + ";", "then the same client opens ten new ones"},
			expect: []string{outcome},
			run:    c.show,
		})
	}
	return steps
}

func (c closing) show(ctx context.Context, st *stage) error {
	srv, err := st.listen(c.serverFollows)
	if err != nil {
		return err
	}
	old := st.hold(ctx, attacker, limit)
	if err := want("held before the closing", old.Count(integration.Held), limit); err != nil {
		return err
	}
	if err := c.close(old.Conns(), srv.Conns()); err != nil {
		return err
	}
	if err := st.waitStates(ctx, c.state, limit); err != nil {
		return err
	}
	if err := st.quoteStates(ctx, c.state); err != nil {
		return err
	}
	open, err := st.heldByServer()
	if err != nil {
		return err
	}
	fresh := st.hold(ctx, attacker, limit)
	st.report.saw("the server's program holds %d of them open", open)
	st.report.saw("ten new ones: %s", outcomes(fresh))
	wantOpen, wantFresh := 0, limit
	if c.counts {
		wantOpen, wantFresh = limit, 0
	}
	return errors.Join(want("open at the server", open, wantOpen), wantOutcomes("new ones", fresh, wantFresh))
}

// close closes what dies first.
func (c closing) close(client, server []*net.TCPConn) error {
	for _, conn := range c.by(client, server) {
		end := conn.Close
		if c.half {
			end = conn.CloseWrite
		}
		if err := end(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	return nil
}

// waitStates waits until nfqfw shows n connections in a state, and no other.
func (st *stage) waitStates(ctx context.Context, state string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, integration.DefaultHoldTimeout)
	defer cancel()
	seen := make(map[string]int)
	err := integration.Poll(ctx, func() bool {
		list, err := st.firewall.States(ctx)
		if err != nil {
			return false // the next round asks again
		}
		clear(seen)
		for _, s := range list {
			seen[s.State]++
		}
		return seen[state] == n && len(seen) == 1
	})
	if err != nil {
		return fmt.Errorf("states: %v, expected %d %s", seen, n, state)
	}
	return nil
}

// quoteStates shows the first lines of "nfqfw states", and counts the others.
func (st *stage) quoteStates(ctx context.Context, state string) error {
	const shown = 2
	out, err := st.firewall.Command(ctx, "states")
	if err != nil {
		return fmt.Errorf("nfqfw states: %w: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.HasSuffix(line, " "+state) })
	if err := want("lines of nfqfw states with "+state, len(lines), limit); err != nil {
		return err
	}
	st.report.saw("nfqfw states:")
	st.report.quote(strings.Join(lines[:shown], "\n"))
	st.report.quote(fmt.Sprintf("... and %d more in %s", len(lines)-shown, state))
	return nil
}

// heldByServer counts the attacker's connections that the server has open,
// says its kernel.
func (st *stage) heldByServer() (int, error) {
	sockets, err := st.Server.Sockets()
	return len(sockets.Local(web.Port()).From(attacker).Accepted()), err
}
