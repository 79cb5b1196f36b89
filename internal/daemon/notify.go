package daemon

import (
	"fmt"
	"os"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// What the service manager is told, in the words of sd_notify(3). Where there is none,
// nothing is said.

// tellReady says that the hooks are in, and whose process decides: after a takeover it
// is not the one that the manager has started.
func (d *daemon) tellReady() { d.tell(fmt.Sprintf("%s\nMAINPID=%d", sd.SdNotifyReady, os.Getpid())) }

func (d *daemon) tellReloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails for this clock
	d.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, now.Nano()/1000))
}

func (d *daemon) tellStopping() { d.tell(sd.SdNotifyStopping) }

func (d *daemon) tell(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		d.failures.Do(func() { d.log.Warn("the service manager does not hear", "err", err) })
	}
}

// newWatchdog makes the one that looks at all loops, and tells the service manager that
// they go on, at least twice in the time after which it thinks that they do not.
func (d *daemon) newWatchdog() (*watchdog, error) {
	timeout, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("daemon: the service manager's watchdog: %w", err)
	}
	interval := feelInterval
	if timeout > 0 {
		interval = min(interval, timeout/2)
	}
	healthy := func() {
		if timeout > 0 {
			d.tell(sd.SdNotifyWatchdog)
		}
	}
	return newWatchdog(d.hearts, interval, healthy, d.log), nil
}
