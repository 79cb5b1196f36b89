package integration

import (
	"sync"
	"testing"
	"time"
)

// The rate of the test: so many in any window.
const (
	rateCount  = 6
	rateWindow = 300 * time.Millisecond
)

// A client that connects as fast as it can gets what the rate allows in every window
// of time, no more and no less; another client does not notice.
func TestRateIsExact(t *testing.T) {
	runRuleCases(t, []ruleCase{{"rate", []string{`max_src_conn_rate = "6/300ms"`}, testRate}})
}

func testRate(c *ruleTest) {
	g := c.on[0]
	const windows = 3
	log := &attemptLog{began: time.Now()}
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			for log.accepted() < windows*rateCount && g.ctx.Err() == nil {
				log.add(time.Now(), g.try(c.first))
			}
		})
	}
	other := g.lab.Client.Hold(g.ctx, HoldOptions{From: g.source(c.first + 1), To: g.srv.Addr(), N: rateCount})
	clients.Wait()
	if n := other.Count(Held); n != rateCount {
		c.Errorf("another client: %v, want %d held", other, rateCount)
	}
	if n := log.accepted(); n < windows*rateCount {
		c.Fatalf("%d were accepted, want %d", n, windows*rateCount)
	}
	log.expectRate(c.T)
	if got, want := g.accepted(c.first), log.accepted(); got != want {
		c.Errorf("the server accepted %d, and the client holds %d", got, want)
	}
	log.close()
}

// attemptLog are the attempts of a client. It is safe for concurrent use.
type attemptLog struct {
	began time.Time

	mu   sync.Mutex
	list []loggedAttempt
}

// loggedAttempt is one that was decided about at some moment between two.
type loggedAttempt struct {
	Attempt
	after, before time.Duration
}

func (l *attemptLog) add(began time.Time, a Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, loggedAttempt{a, began.Sub(l.began), time.Since(l.began)})
}

func (l *attemptLog) accepted() int {
	return l.count(func(*loggedAttempt) bool { return true })
}

// count is how many of the accepted ones are such.
func (l *attemptLog) count(such func(*loggedAttempt) bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.list {
		if a := &l.list[i]; a.Outcome == Held && such(a) {
			n++
		}
	}
	return n
}

// expectRate finds windows with more than the rate for sure, and attempts that were
// refused though there were fewer for sure.
func (l *attemptLog) expectRate(t *testing.T) {
	t.Helper()
	for i := range l.list {
		a := &l.list[i]
		within := l.count(func(b *loggedAttempt) bool { return b.after >= a.after && b.before < a.after+rateWindow })
		if a.Outcome == Held && within > rateCount {
			t.Errorf("%d in the window from %v on, want %d", within, a.after, rateCount)
		}
		last := l.count(func(b *loggedAttempt) bool { return b.before > a.after-rateWindow && b.after < a.before })
		if a.Outcome != Held && last < rateCount {
			t.Errorf("at %v: %v, with %d of %d in the window before", a.after, a.Outcome, last, rateCount)
		}
	}
}

func (l *attemptLog) close() {
	for i := range l.list {
		if c := l.list[i].Conn; c != nil {
			_ = c.Close()
		}
	}
}
