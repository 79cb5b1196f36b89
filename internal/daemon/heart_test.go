package daemon

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// watched is a watchdog in whose log and ends a test can look.
type watched struct {
	*watchdog
	log     bytes.Buffer
	healthy int
	ends    []int
}

func watch(hearts ...*heart) *watched {
	w := &watched{}
	w.watchdog = newWatchdog(hearts, feelInterval, func() { w.healthy++ }, slog.New(slog.NewTextHandler(&w.log, nil)))
	w.end = func(code int) { w.ends = append(w.ends, code) }
	return w
}

// looks has it look for so long.
func (w *watched) looks(d time.Duration) {
	for range d / feelInterval {
		w.look()
	}
}

// A loop that rests, or beats as seldom as may be, is well for ever.
func TestWatchdogLeavesAlone(t *testing.T) {
	resting, working := &heart{loop: "resting"}, &heart{loop: "working"}
	resting.beat()
	resting.rest()
	w := watch(resting, working)
	for range 3 * stuckAfter / slowAfter {
		working.beat()
		w.looks(slowAfter)
	}
	if w.log.Len() > 0 || len(w.ends) > 0 {
		t.Errorf("ends %v, log %s", w.ends, &w.log)
	}
	if w.healthy != 9 {
		t.Errorf("well at %d looks, want those after a beat, 9", w.healthy)
	}
}

// A loop that hangs at work is told of once, with what it waits for, and ends the
// daemon. Meanwhile the service manager hears nothing.
func TestWatchdogEndsStuckDaemon(t *testing.T) {
	var held sync.Mutex
	held.Lock()
	h, began := &heart{loop: "queue 7400"}, make(chan struct{})
	ended := make(chan struct{})
	go hang(h, &held, began, ended)
	<-began
	w := watch(h, &heart{loop: "ticker"})
	w.look() // sees the beat
	w.looks(stuckAfter - feelInterval)
	if len(w.ends) > 0 || w.healthy != 1 {
		t.Errorf("early: ends %v, well at %d looks", w.ends, w.healthy)
	}
	if log := w.log.String(); strings.Count(log, "a loop makes no progress") != 1 || !strings.Contains(log, `loop="queue 7400" for=10s`) || !strings.Contains(log, "daemon.hang(") {
		t.Errorf("log %s", log)
	}
	w.look()
	if len(w.ends) != 1 || w.ends[0] != 1 {
		t.Errorf("ends %v", w.ends)
	}
	held.Unlock()
	<-ended
	w.look()
	if log := w.log.String(); !strings.Contains(log, "a loop goes on again") || w.healthy != 2 {
		t.Errorf("well at %d looks, log %s", w.healthy, log)
	}
}

// hang is a loop that waits for what another holds.
func hang(h *heart, held *sync.Mutex, began, ended chan<- struct{}) {
	h.beat()
	close(began)
	held.Lock()
	h.rest()
	held.Unlock()
	close(ended)
}

// manager is a service manager that hears.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func heard(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	b := make([]byte, 4096)
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// The manager hears twice in the time it gives, and only if it has asked for that.
func TestServiceManagersWatchdog(t *testing.T) {
	m := manager(t)
	for _, tt := range []struct {
		usec, pid string
		interval  time.Duration
		tells     bool
	}{
		{"", "", feelInterval, false},
		{"500000", "", 250 * time.Millisecond, true},
		{"30000000", "", feelInterval, true},
		{"500000", "1", feelInterval, false}, // it is another process that is to tell
	} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("WATCHDOG_PID", tt.pid)
		d := testDaemon(t, "")
		w, err := d.newWatchdog()
		if err != nil || w.interval != tt.interval {
			t.Fatalf("%+v: %v, %v", tt, w, err)
		}
		w.look()
		d.tellStopping()
		got := heard(t, m)
		if tells := got == "WATCHDOG=1"; tells != tt.tells || (!tells && got != "STOPPING=1") {
			t.Errorf("%+v: %q", tt, got)
		}
		if tt.tells {
			_ = heard(t, m)
		}
	}
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := testDaemon(t, "").newWatchdog(); err == nil {
		t.Error("no error")
	}
}

// Without a manager nothing is said, and one that is gone is no reason to fail.
func TestNoServiceManager(t *testing.T) {
	var log bytes.Buffer
	d := testDaemon(t, "")
	d.log = slog.New(slog.NewTextHandler(&log, nil))
	t.Setenv("NOTIFY_SOCKET", "")
	d.tellReady()
	if log.Len() > 0 {
		t.Error(log.String())
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "gone"))
	d.tellReady()
	if !strings.Contains(log.String(), "the service manager does not hear") {
		t.Error(log.String())
	}
}

func TestWatchdogRuns(t *testing.T) {
	w := watch(&heart{})
	w.interval = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	w.watchdog.healthy = cancel
	if err := w.run(ctx); err != nil {
		t.Error(err)
	}
}
