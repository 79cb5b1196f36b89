package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nfqfw/integration"
)

const (
	workers  = 100 // Apache's MaxRequestWorkers
	slowOnes = 150 // connections of slowhttptest
	slowRate = 150 // a second
	// patience is how long the honest client waits for his page.
	patience = 2 * time.Second
	// watched is how long the attack, which needs a second to open its
	// connections, is watched for more than it may have.
	watched = 1500 * time.Millisecond
)

// slowloris is an attack on an Apache.
type slowloris struct {
	*stage
	apache *integration.Apache
	attack *integration.Command
}

// slowloris starts Apache, shows that it serves, and starts the attack.
func (st *stage) slowloris(ctx context.Context) (*slowloris, error) {
	apache, err := st.Server.StartApache(ctx, integration.ApacheOptions{Listen: []netip.AddrPort{web}, MaxRequestWorkers: workers})
	if err != nil {
		return nil, err
	}
	s := &slowloris{stage: st, apache: apache}
	took, err := s.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("before the attack: %w", err)
	}
	st.report.saw("honest %v, before the attack: page in %s", honest, milliseconds(took))
	s.attack = st.Client.SlowHTTPTest(ctx, integration.SlowHTTPTest{
		URL: "http://" + web.String() + "/", Connections: slowOnes, Rate: slowRate, Duration: stepTimeout,
	})
	return s, s.attack.Start()
}

// ask is the honest client: how long it took to get the page.
func (s *slowloris) ask(ctx context.Context) (time.Duration, error) {
	out, err := s.Client.Command(ctx, "curl", "--silent", "--show-error", "--max-time", fmt.Sprint(patience.Seconds()),
		"--interface", honest.String(), "--output", "/dev/null", "--write-out", "%{http_code} %{time_total}",
		"http://"+web.String()+"/").Output()
	var status int
	var seconds float64
	if _, scanned := fmt.Sscan(string(out), &status, &seconds); err == nil {
		err = scanned
	}
	if err == nil {
		err = want("HTTP status", status, 200)
	}
	if err != nil {
		return 0, fmt.Errorf("curl: %w", err)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// busy waits until the attacker holds n workers.
func (s *slowloris) busy(ctx context.Context, n int) error {
	start := time.Now()
	busy := 0
	err := integration.Poll(ctx, func() bool {
		busy, _ = s.apache.BusyWith(attacker) // the next round asks again
		return busy >= n
	})
	if err != nil {
		return fmt.Errorf("workers busy with the attacker: %d, expected %d", busy, n)
	}
	return s.showWorkers("after "+seconds(time.Since(start)), busy)
}

func (s *slowloris) showWorkers(when string, busy int) error {
	children, err := s.apache.Workers()
	if err == nil {
		s.report.saw("Apache, %s: %d worker processes, %d busy with %v", when, children, busy, attacker)
	}
	return err
}

// most watches for a while how many workers the attacker holds.
func (s *slowloris) most(ctx context.Context, d time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	most := 0
	var failed error
	_ = integration.Poll(ctx, func() bool { // until the time is over
		busy, err := s.apache.BusyWith(attacker)
		most, failed = max(most, busy), errors.Join(failed, err)
		return failed != nil
	})
	return most, failed
}

func slowlorisWins(ctx context.Context, st *stage) error {
	s, err := st.slowloris(ctx)
	if err != nil {
		return err
	}
	if err := s.busy(ctx, workers); err != nil {
		return err
	}
	took, err := s.ask(ctx)
	if err == nil {
		return fmt.Errorf("honest client: page in %s, expected none: the attack has failed", milliseconds(took))
	}
	if ctx.Err() != nil {
		return ctx.Err() // that is why there is no page
	}
	st.report.saw("honest %v, during the attack: no page in %s", honest, seconds(patience))
	return nil
}

func slowlorisLimited(ctx context.Context, st *stage) error {
	s, err := st.slowloris(ctx)
	if err != nil {
		return err
	}
	if err := s.busy(ctx, limit); err != nil {
		return err
	}
	most, err := s.most(ctx, watched)
	if err == nil {
		err = s.showWorkers("the most in another "+seconds(watched), most)
	}
	if err != nil {
		return err
	}
	took, err := s.ask(ctx)
	if err != nil {
		return fmt.Errorf("honest client, during the attack: %w", err)
	}
	st.report.saw("honest %v, during the attack: page in %s", honest, milliseconds(took))
	return errors.Join(want("most workers busy with the attacker", most, limit), soon("the honest client's page", took))
}
