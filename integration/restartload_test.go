package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"nfqfw/internal/control"
)

const (
	restartLimit    = 5
	restartSources  = 25 // of each of the four servers, all at their limit
	restartSessions = 4 * restartSources * restartLimit
	restartTimeout  = 90 * time.Second
	// restartGap is how long a session may wait for what was lost: TCP sends again after
	// 200 ms, and then twice as long each time.
	restartGap = 1500 * time.Millisecond
	// downTime is how long there is no daemon, apart from what it takes to start.
	downTime = 300 * time.Millisecond
	// serverSources is how many sources there may be of each server: the rule is of all.
	serverSources = 1000
)

// restarting is a daemon with many long sessions that stops, dies and is replaced.
type restarting struct {
	t      *testing.T
	ctx    context.Context
	guards []*guarded // the first source of each is serverSources after that of the last
	fw     *Firewall
	policy string
	sessions
	fresh int // the source of each server that connected last
}

// Whatever becomes of the daemon, 500 sessions whose sources are all at their limit go
// on, are known to the next one, and count: not one connection more comes through.
func TestRestartUnderLoad(t *testing.T) {
	for _, policy := range []string{"synproxy", "keep"} {
		t.Run(policy, func(t *testing.T) {
			r := newRestarting(t, policy)
			r.restart("SIGTERM", r.stops)
			r.restart("SIGKILL, closed", func() { r.dies(TimedOut) })
			if out, err := r.fw.Reload(r.ctx, r.config("open")); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			r.restart("SIGKILL, open", func() { r.dies(Held) })
			r.restart("another binary", r.upgrades)
			for _, k := range r.end() {
				t.Errorf("lost: %v", k)
			}
		})
	}
}

func (r *restarting) config(whenDown string) string {
	return fmt.Sprintf("[daemon]\nwhen_down = %q\n", whenDown) + webConfig(r.policy, restartLimit)
}

func newRestarting(t *testing.T, policy string) *restarting {
	t.Helper()
	r := &restarting{t: t, policy: policy}
	ctx, cancel := context.WithTimeout(t.Context(), restartTimeout)
	t.Cleanup(cancel)
	r.ctx, r.sessions.ctx, r.sessions.stop = ctx, ctx, cancel
	r.guards = guardAll(t, r.config("closed"), AcceptOptions{Echo: true, CloseOnEOF: true})
	r.fw = r.guards[0].fw
	r.fresh = restartSources
	for i, g := range r.guards {
		g.ctx = ctx
		for j := range restartSources {
			h := g.lab.Client.Hold(ctx, HoldOptions{From: g.source(i*serverSources + j), To: g.srv.Addr(), N: restartLimit, Concurrency: restartLimit})
			if h.Count(Held) != restartLimit {
				t.Fatalf("%v: %v", g.source(j), h)
			}
			for _, c := range h.Conns() {
				r.add(c)
			}
		}
	}
	return r
}

// restart has the daemon end and another go on, under load, and holds the one against the
// other.
func (r *restarting) restart(name string, replace func()) {
	r.t.Helper()
	before := r.known()
	r.must(name, r.round(r.ctx))
	r.waits()
	replace()
	r.must(name, r.round(r.ctx))
	longest, again := r.waits()
	r.t.Logf("%s: the longest that one of %d sessions waited is %v, %v with something lost", name, len(r.all()), longest.Round(time.Millisecond), again.Round(time.Millisecond))
	if again > restartGap {
		r.t.Errorf("%s: a session stood still for %v", name, again)
	}
	r.sameStates(name, before, r.known())
	for i, g := range r.guards {
		g.isRefused(i*serverSources, name+", one more than the limit")
	}
}

func (r *restarting) must(name string, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
}

// known are the states of sessions, by their clients.
func (r *restarting) known() map[netip.AddrPort]control.State {
	r.t.Helper()
	known := make(map[netip.AddrPort]control.State)
	for _, s := range must[[]control.State](r.t, "states")(r.fw.States(r.ctx)) {
		known[netip.AddrPortFrom(s.Source.Address, s.Source.Port)] = s
	}
	return known
}

// sameStates holds that all sessions are known as they were.
func (r *restarting) sameStates(name string, was, is map[netip.AddrPort]control.State) {
	r.t.Helper()
	for _, k := range r.all() {
		client := addrPortOf(k.conn.LocalAddr())
		before, after := was[client], is[client]
		switch {
		case after.State != "ESTABLISHED:ESTABLISHED" || !after.Counts || after.Rule != before.Rule || after.Proxied != before.Proxied:
			r.t.Errorf("%s: %v is %+v, was %+v", name, client, after, before)
		case after.Age < before.Age || after.Original == nil || after.Original.Bytes <= before.Original.Bytes:
			r.t.Errorf("%s: %v has age %v and %+v, had %v and %+v", name, client, after.Age, after.Original, before.Age, before.Original)
		}
	}
}

// stops ends the daemon by SIGTERM, and starts it again.
func (r *restarting) stops() {
	r.must("stop", r.fw.Stop())
	time.Sleep(downTime)
	r.must("start", r.fw.Start(r.ctx))
}

// dies kills the daemon and starts it again. Meanwhile a new connection has an outcome,
// and what could not connect does so afterwards. With when_down = "closed" sources at
// their limit try all the time.
func (r *restarting) dies(want Outcome) {
	r.t.Helper()
	judged := func() {}
	if want == TimedOut {
		judged = r.press()
	}
	r.must("kill", r.fw.Kill())
	waiting := r.connect(downTime, want)
	r.must("start", r.fw.Start(r.ctx))
	waiting()
	time.Sleep(downTime)
	judged()
}

// connect has a new source of each server connect while there is no daemon, for a while
// and for longer: the one has the outcome, and the other is served once the daemon is
// there, as the returned function holds.
func (r *restarting) connect(d time.Duration, want Outcome) (served func()) {
	r.t.Helper()
	var wg, longer sync.WaitGroup
	r.fresh += 2
	for i, g := range r.guards {
		hold := func(j int, d time.Duration, want Outcome) {
			h := g.lab.Client.Hold(r.ctx, HoldOptions{From: g.source(i*serverSources + j), To: g.srv.Addr(), N: 1, Timeout: d})
			if h.Count(want) != 1 {
				r.t.Errorf("%s/%v: a new connection, %v after the daemon has died: %v, want %v", g.at.name, g.family, d, h, want)
			}
			_ = h.Close()
		}
		fresh := r.fresh
		wg.Go(func() { hold(fresh, d, want) })
		longer.Go(func() { hold(fresh+1, sessionPatience, Held) })
	}
	wg.Wait()
	return longer.Wait
}

// press has one source of each server that is at its limit go on to connect, until the
// returned function is called; that holds that the server never had more.
func (r *restarting) press() (judged func()) {
	ctx, stop := context.WithCancel(r.ctx)
	var wg sync.WaitGroup
	var watches []*sampler
	for i, g := range r.guards {
		from := g.source(i * serverSources)
		watches = append(watches, g.sample(from))
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					c, err := g.lab.Client.Dial(ctx, netip.AddrPortFrom(from, 0), g.srv.Addr())
					if err == nil { // a proxied client may hear of its refusal after that
						_ = c.SetReadDeadline(time.Now().Add(time.Second))
						_, _ = c.Read(make([]byte, 1))
						_ = c.Close()
					}
				}
			})
		}
	}
	return func() {
		stop()
		wg.Wait()
		for i, g := range r.guards {
			watches[i].expect(g, restartLimit)
			if n := g.accepted(i * serverSources); n != restartLimit {
				r.t.Errorf("%s/%v: the server accepted %d of one source", g.at.name, g.family, n)
			}
		}
	}
}

// upgrades has another copy of the program take over.
func (r *restarting) upgrades() {
	r.t.Helper()
	text := must[[]byte](r.t, "read the program")(os.ReadFile(r.fw.binary))
	next := filepath.Join(filepath.Dir(r.fw.config), "nfqfw-next")
	r.must("copy", os.WriteFile(next, text, 0o755))
	r.fw.binary = next
	r.must("takeover", r.fw.Takeover(r.ctx))
	exe := must[string](r.t, "executable")(os.Readlink(fmt.Sprintf("/proc/%d/exe", r.fw.Pid())))
	if exe != next {
		r.t.Errorf("%s runs, want %s", exe, next)
	}
}
