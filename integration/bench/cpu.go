package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// tick is the unit of /proc/stat (USER_HZ, which is the same on all machines).
const tick = 10 * time.Millisecond

const (
	// idleTime is how long the machine's idle load is looked at.
	idleTime = 200 * time.Millisecond
	// quietShare is how much of the processors may be busy before a measurement.
	quietShare = 0.1
)

// busyTime is how long the processors were busy since the machine was started.
func busyTime() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	// user, nice, system, idle, iowait, irq, softirq
	var user, nice, system, idle, wait, irq, softirq time.Duration
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq); err != nil {
		return 0, fmt.Errorf("read /proc/stat: %w", err)
	}
	return tick * (user + nice + system + irq + softirq), nil
}

// processTime is what a process has used; 0 for the process 0.
func processTime(pid int) (time.Duration, error) {
	if pid == 0 {
		return 0, nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The program's name, in brackets, may have anything in it. utime and stime are the
	// 14th and 15th field.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const utime, stime = 11, 12
	var user, system time.Duration
	if len(fields) <= stime {
		return 0, fmt.Errorf("process %d: %d fields in its stat", pid, len(fields))
	}
	if _, err := fmt.Sscan(fields[utime]+" "+fields[stime], &user, &system); err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return tick * (user + system), nil
}

// idleShare is how many processors are busy without a load.
func idleShare(d time.Duration) (float64, error) {
	before, err := busyTime()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	time.Sleep(d)
	after, err := busyTime()
	return (after - before).Seconds() / time.Since(began).Seconds(), err
}

// settle waits until the machine has nothing else to do, but not for ever. What a
// measurement leaves behind, such as a large conntrack table, the kernel removes later.
func settle(ctx context.Context, most time.Duration) error {
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; {
		share, err := idleShare(idleTime)
		if err != nil || share < quietShare {
			return err
		}
	}
	return ctx.Err()
}

// meter measures what a load costs.
type meter struct {
	pid      int
	idle     float64 // processors
	began    time.Time
	machine  time.Duration
	consumed time.Duration // by the process
}

// startMeter looks at the idle machine first.
func startMeter(pid int) (*meter, error) {
	m := &meter{pid: pid}
	var err error
	if m.idle, err = idleShare(idleTime); err != nil {
		return nil, err
	}
	m.began = time.Now()
	if m.machine, err = busyTime(); err != nil {
		return nil, err
	}
	m.consumed, err = processTime(pid)
	return m, err
}

// stop returns what the machine and the process have used since, the machine less what
// it uses when idle.
func (m *meter) stop() (machine, process time.Duration, err error) {
	busy, err := busyTime()
	if err != nil {
		return 0, 0, err
	}
	consumed, err := processTime(m.pid)
	idle := time.Duration(m.idle * float64(time.Since(m.began)))
	return max(busy-m.machine-idle, 0), consumed - m.consumed, err
}
