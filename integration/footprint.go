package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Footprint is what a process holds of the system.
type Footprint struct {
	Descriptors, Threads, Kilobytes int // Kilobytes are those that are resident
	Goroutines                      int // 0: not asked
}

// FootprintOf is that of a process.
func FootprintOf(pid int) (p Footprint, err error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return p, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	p.Descriptors = len(list)
	for name, field := range map[string]*int{"Threads": &p.Threads, "VmRSS": &p.Kilobytes} {
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
