package integration

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

const (
	slowConnections = 200
	slowDuration    = 3 * time.Second
	apacheWorkers   = 50
)

// Slowloris against an Apache in which every connection occupies a process.
// Behind the rule the attacker occupies ten and others are served; without it
// he occupies all, and nobody is.
func TestSlowloris(t *testing.T) {
	Require(t, Program("apache2"), Program("slowhttptest"))
	protected := func(t *testing.T, policy string, at place, f Family) {
		s := newSlowloris(t, at, f)
		startFirewall(t, s.lab, fmt.Sprintf(webRule, policy, 10))
		s.run()
		if s.busy != 10 {
			t.Errorf("the attacker kept %d workers busy, want 10", s.busy)
		}
		if s.served == 0 || s.served != s.asked {
			t.Errorf("another client: %d of %d served, the slowest in %v", s.served, s.asked, s.slowest)
		}
	}
	under(t, "synproxy", places, Families, protected)
	under(t, "keep", places, []Family{IPv4}, protected)
	t.Run("unprotected", func(t *testing.T) {
		s := newSlowloris(t, places[0], IPv4)
		s.run()
		if s.busy != apacheWorkers {
			t.Errorf("the attacker kept %d workers busy, want all %d", s.busy, apacheWorkers)
		}
		if s.askedFull == 0 || s.servedFull > 0 {
			t.Errorf("with all workers busy another client was served %d times of %d", s.servedFull, s.askedFull)
		}
	})
}

// A slowloris is the attack, and what it comes to.
type slowloris struct {
	t      *testing.T
	ctx    context.Context
	lab    *Lab
	apache *Apache
	url    string
	family Family

	busy          int // the most workers the attacker kept busy
	asked, served int // requests of another client, and those answered within a second
	slowest       time.Duration
	// Of these, asked when the attacker kept all workers busy.
	askedFull, servedFull int
}

func newSlowloris(t *testing.T, at place, f Family) *slowloris {
	t.Helper()
	s := &slowloris{t: t, ctx: testContext(t), lab: newLab(t, Options{}), family: f}
	to := netip.AddrPortFrom(at.addr(f), 80)
	s.url = fmt.Sprintf("http://%v/", to)
	opts := ApacheOptions{Listen: []netip.AddrPort{to}, MaxRequestWorkers: apacheWorkers, Idle: apacheWorkers}
	s.apache = must[*Apache](t, "apache")(at.ns(s.lab).StartApache(s.ctx, opts))
	return s
}

// run attacks, and meanwhile asks for the page from another address.
func (s *slowloris) run() {
	s.t.Helper()
	attack := s.lab.Client.SlowHTTPTest(s.ctx, SlowHTTPTest{
		URL: s.url, Connections: slowConnections, Rate: slowConnections, Duration: slowDuration,
	})
	if err := attack.Start(); err != nil {
		s.t.Fatalf("attack: %v", err)
	}
	for end := time.Now().Add(slowDuration); time.Now().Before(end); time.Sleep(pause) {
		s.ask()
		s.count()
	}
	_ = attack.Stop() // its status says whether the server went down
	s.t.Logf("at most %d of %d workers busy with the attacker; another client: %d of %d served within a second, the slowest in %v",
		s.busy, apacheWorkers, s.served, s.asked, s.slowest.Round(time.Microsecond))
}

// count counts the workers that the attacker keeps busy: each holds a socket.
func (s *slowloris) count() {
	sockets := must[Sockets](s.t, "sockets")(s.apache.Sockets())
	sockets = sockets.Accepted()
	s.busy = max(s.busy, len(sockets)-len(sockets.From(s.other())))
}

// other is the address of the other client, in IPv6 of another /64.
func (s *slowloris) other() netip.Addr { return CrowdAddr(s.family, 1) }

// ask asks for the page as another client, and waits a second.
func (s *slowloris) ask() {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	start, served := time.Now(), 0
	if page, err := s.lab.Client.get(ctx, s.other(), s.url); err == nil && page == Page {
		served = 1
	}
	s.slowest = max(s.slowest, time.Since(start))
	s.asked, s.served = s.asked+1, s.served+served
	if s.busy == apacheWorkers {
		s.askedFull, s.servedFull = s.askedFull+1, s.servedFull+served
	}
}

// get fetches a page from inside the namespace.
func (n *Namespace) get(ctx context.Context, from netip.Addr, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := n.HTTPClient(from).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}
