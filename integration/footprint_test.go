package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// footprint is what a daemon holds of the system.
type footprint struct {
	descriptors, threads, kilobytes int
	goroutines                      int // 0: not asked
}

// spareFootprint is how much more a daemon may hold at one moment than at another: the
// pipes of a program that it runs, and what the Go runtime comes to hold by itself.
func spareFootprint() (descriptors, threads, kilobytes int) {
	descriptors, threads, kilobytes = 4, 8, 32<<10
	if raceEnabled {
		kilobytes *= 2
	}
	return descriptors, threads, kilobytes
}

func (g *guarded) footprint() footprint {
	g.t.Helper()
	return must[footprint](g.t, "footprint")(footprintOf(g.fw.Pid()))
}

// footprintOf is that of a process.
func footprintOf(pid int) (p footprint, err error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return p, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	p.descriptors = len(list)
	for name, field := range map[string]*int{"Threads": &p.threads, "VmRSS": &p.kilobytes} {
		_, rest, _ := strings.Cut(string(status), "\n"+name+":")
		words := strings.Fields(rest)
		if len(words) == 0 {
			return p, fmt.Errorf("no %s in the status of process %d", name, pid)
		}
		if *field, err = strconv.Atoi(words[0]); err != nil {
			return p, err
		}
	}
	return p, nil
}
