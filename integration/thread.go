package integration

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var errGoexit = errors.New("run in namespace: the function ended its goroutine (FailNow inside Do?)")

// runIn calls f on a thread inside the namespace and comes back when it
// returns. A panic of f goes on in the caller, where a test's cleanup sees it.
func runIn(ns netns.NsHandle, f func() error) error {
	err := errGoexit
	var panicked string
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockThread(func() {
			defer func() {
				if r := recover(); r != nil {
					panicked = fmt.Sprintf("%v\n\nin namespace:\n%s", r, debug.Stack())
				}
			}()
			err = enter(ns, f)
		})
	}()
	<-done
	if panicked != "" {
		panic(panicked)
	}
	return err
}

// lockThread calls f on a goroutine locked to a thread that is not the
// process's main one: /proc/self/net shows the main thread's namespace to
// everybody, and the runtime cannot destroy that thread either.
func lockThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != os.Getpid() {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockThread(f)
	}()
	<-done // meanwhile the main thread is taken, so the other cannot get it
	runtime.UnlockOSThread()
}

// enter calls f inside the namespace on the locked thread it is called on.
// The thread is unlocked only when it is back: a goroutine that ends while
// locked takes its thread along, and nothing else ever runs in the wrong place.
func enter(ns netns.NsHandle, f func() error) error {
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find own namespace: %w", err)
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
	}()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	return f()
}

// thread is a resident of a namespace: it starts processes, whose
// parent-death signal is bound to the life of the thread that forked them,
// and does what is too short to be worth a thread of its own.
type thread struct {
	calls chan func()
	done  chan struct{}
}

func startThread(ns netns.NsHandle) (*thread, error) {
	t := &thread{calls: make(chan func()), done: make(chan struct{})}
	var err error
	go func() {
		defer close(t.done)
		err = runIn(ns, t.loop)
	}()
	select {
	case t.calls <- func() {}:
		return t, nil
	case <-t.done:
		return nil, err
	}
}

func (t *thread) loop() error {
	for f := range t.calls {
		f()
	}
	return nil
}

// do calls f, which must be short, on the thread.
func (t *thread) do(f func() error) (err error) {
	done := make(chan struct{})
	t.calls <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// stop ends the thread; nothing may call do any more.
func (t *thread) stop() {
	close(t.calls)
	<-t.done
}
