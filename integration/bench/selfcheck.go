package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"nfqfw/integration"
)

const (
	// checkLimit is a low one, so that a peer that counts refuses.
	checkLimit = 2
	checkTries = checkLimit + 1
	// checkTimeout bounds a connection of the check: some peers' stall.
	checkTimeout = 10 * time.Second
	// checkWait is how long a peer may take to show what it holds.
	checkWait = 5 * time.Second
)

// selfCheck returns an error unless the peer does what it is measured for.
func selfCheck(ctx context.Context, binary string, p peer) (err error) {
	st, err := openStage(ctx, binary, quickSize, p, checkLimit)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := p.check(ctx, st); err != nil {
		return fmt.Errorf("%s does not do its work: %w", p.name, err)
	}
	return nil
}

// check has one client ask for more connections than the limit.
func (p peer) check(ctx context.Context, st *stage) error {
	if _, err := st.Server.CountAccepts(web, integration.AcceptOptions{Echo: true, CloseOnEOF: true}); err != nil {
		return err
	}
	h := st.Client.Hold(ctx, integration.HoldOptions{
		From: integration.ClientAddr(integration.IPv4, 0), To: st.to, N: checkTries, Timeout: checkTimeout,
	})
	want := checkTries
	if p.counts {
		want = checkLimit
	}
	if held := h.Count(integration.Held); held != want {
		return fmt.Errorf("%d connections, limit %d: %v, want %d held", checkTries, checkLimit, h, want)
	}
	return p.verify(ctx, st, want)
}

func verifyDirect(ctx context.Context, st *stage, _ int) error {
	return st.wantEntries(ctx, 0)
}

func verifyConntrack(ctx context.Context, st *stage, held int) error {
	return st.wantEntries(ctx, held)
}

// wantEntries returns an error unless the gateway's conntrack has so many entries of
// established connections.
func (st *stage) wantEntries(ctx context.Context, want int) error {
	out, err := st.Gateway.Command(ctx, "conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED").Output()
	if err != nil {
		return fmt.Errorf("list conntrack: %w", err)
	}
	if got := strings.Count(string(out), "ESTABLISHED"); got != want {
		return fmt.Errorf("%d entries in conntrack, want %d", got, want)
	}
	return nil
}

// verifySYNPROXY looks into the kernel's counters (net/netfilter/nf_synproxy_core.c).
func verifySYNPROXY(_ context.Context, st *stage, held int) error {
	var text []byte
	err := st.Gateway.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/stat/synproxy")
		return err
	})
	if err != nil {
		return err
	}
	var received, valid int
	for _, line := range strings.Split(string(text), "\n")[1:] { // one of each CPU
		var entries, syn, invalid, ok int
		if n, _ := fmt.Sscanf(line, "%x %x %x %x", &entries, &syn, &invalid, &ok); n == 4 {
			received, valid = received+syn, valid+ok
		}
	}
	if received < held || valid < held {
		return fmt.Errorf("%d SYNs and %d good cookies in its counters, want %d", received, valid, held)
	}
	return nil
}

// verifyCtCount looks that it is the rule that has refused.
func verifyCtCount(ctx context.Context, st *stage, _ int) error {
	out, err := st.Gateway.Command(ctx, "nft", "list", "counters").Output()
	if err != nil {
		return fmt.Errorf("list counters: %w", err)
	}
	if !strings.Contains(string(out), "packets") || strings.Contains(string(out), "packets 0 ") {
		return fmt.Errorf("nothing refused: %s", out)
	}
	return nil
}

func verifyHAProxy(ctx context.Context, st *stage, held int) error {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	want := fmt.Sprintf("conn_cur=%d", held)
	var text string
	var failed error
	// The one that was refused is counted until it has gone.
	err := integration.Poll(ctx, func() bool {
		text, failed = st.haproxy.Table()
		return failed != nil || strings.Contains(text, want)
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("no %s in its table: %w: %s", want, err, text)
	}
	return nil
}

// verifyFirewall looks that all connections are established, by proxy or not, and that
// a SYN that nobody stands behind is one that waits.
func verifyFirewall(proxied bool) func(context.Context, *stage, int) error {
	return func(ctx context.Context, st *stage, held int) error {
		states, err := st.firewall.States(ctx)
		if err != nil {
			return err
		}
		established := 0
		for _, s := range states {
			if s.State == "ESTABLISHED:ESTABLISHED" && s.Proxied == proxied {
				established++
			}
		}
		if established != held {
			return fmt.Errorf("%d states are ESTABLISHED:ESTABLISHED, want %d (proxied %v): %+v", established, held, proxied, states)
		}
		c, err := st.cookies(ctx)
		if err == nil && c.Mode != "always" && proxied {
			err = st.verifyProxy(ctx)
		}
		return err
	}
}

// verifyProxy looks that a SYN alone is answered by the firewall and kept from the server.
func (st *stage) verifyProxy(ctx context.Context) error {
	flood := integration.FloodOptions{To: st.to, Duration: checkWait, Most: 1}
	if _, err := st.Flood(ctx, flood); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	err := integration.Poll(ctx, func() bool {
		states, err := st.firewall.States(ctx)
		for _, s := range states {
			if s.State == "PROXY:SRC" {
				return true
			}
		}
		return err != nil
	})
	if err != nil {
		return fmt.Errorf("a SYN alone is not PROXY:SRC: %w", err)
	}
	return nil
}
