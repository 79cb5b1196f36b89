package integration

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestCommand(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	out := must[[]byte](t, "ip")(l.Server.Command(ctx, "ip", "-br", "addr", "show", "eth0").Output())
	if !strings.Contains(string(out), "192.0.2.10/24") {
		t.Errorf("not in the server's namespace: %s", out)
	}
	if err := l.Client.Command(ctx, "sh", "-c", "exit 3").Run(); err == nil || !strings.Contains(err.Error(), "3") {
		t.Errorf("exit status: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_ = l.Client.Command(short, "sh", "-c", "sleep 60 & sleep 60").Run()
	if took := time.Since(start); took > stopGrace {
		t.Errorf("a context that ended stopped the command after %v", took)
	}
	if err := l.Client.Command(ctx, "sleep").Wait(); err == nil {
		t.Error("waited for a command that was not started")
	}
}

// TestParentDeathSignal proves that the thread a command hangs on lives on:
// the signal would come when it ends.
func TestParentDeathSignal(t *testing.T) {
	ctx := testContext(t)
	l := newLab(t, Options{})
	c := l.Client.Command(ctx, "sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		_ = l.Client.Do(func() error { runtime.Gosched(); return nil })
	}
	runtime.GC()
	time.Sleep(100 * time.Millisecond)
	if c.signal(0) != nil || c.ended() {
		t.Error("the command ended by itself")
	}
}
