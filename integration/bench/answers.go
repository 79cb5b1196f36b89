package main

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"nfqfw/integration"
)

// answerRules count the SYN+ACKs that come to the sources of a flood, and end them
// before the client's kernel has any work with them.
const answerRules = `*raw
-A PREROUTING -d %v -p tcp --tcp-flags FIN,SYN,RST,ACK SYN,ACK -j DROP
COMMIT
`

// runAnswers counts how many SYNs of a flood are answered.
func runAnswers(ctx context.Context, st *stage) (values, error) {
	if err := st.Server.AnswerShort(web); err != nil {
		return nil, err
	}
	absent := netip.PrefixFrom(integration.AbsentAddr(integration.IPv4, 0), 16).Masked()
	if err := st.Client.Feed(ctx, fmt.Sprintf(answerRules, absent), "iptables-restore"); err != nil {
		return nil, err
	}
	r, err := st.Flood(ctx, integration.FloodOptions{To: st.to, Duration: st.flatOut, Most: math.MaxInt})
	if err != nil {
		return nil, err
	}
	// What has come by now: what waits somewhere is no throughput.
	ended := time.Now()
	answered, err := st.answered(ctx)
	if err != nil {
		return nil, err
	}
	took := r.Elapsed + time.Since(ended)
	if answered == 0 {
		return nil, fmt.Errorf("none of %d SYNs was answered", r.Sent)
	}
	if err := st.expectCookies(ctx); err != nil {
		return nil, err
	}
	return values{
		"answered": answered / took.Seconds(), "sent": r.Rate(), "share": 100 * answered / float64(r.Sent),
	}, nil
}

// answered is how many packets the client's first rule has counted.
func (st *stage) answered(ctx context.Context) (float64, error) {
	out, err := st.Client.Command(ctx, "iptables", "-t", "raw", "-nvxL", "PREROUTING").Output()
	if err != nil {
		return 0, fmt.Errorf("count answers: %w", err)
	}
	// Two lines of headings.
	lines := strings.SplitN(string(out), "\n", 3)
	var packets float64
	if _, err := fmt.Sscan(lines[len(lines)-1], &packets); err != nil {
		return 0, fmt.Errorf("count answers: %w: %s", err, out)
	}
	return packets, nil
}

// expectCookies returns an error if the firewall is there and has sent no cookie.
func (st *stage) expectCookies(ctx context.Context) error {
	if st.firewall == nil {
		return nil
	}
	c, err := st.cookies(ctx)
	if err == nil && c.Sent == 0 {
		err = fmt.Errorf("SYN cookies are not on: %+v", c)
	}
	return err
}
