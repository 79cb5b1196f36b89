package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"nfqfw/integration"
)

const (
	// holdConcurrency is how many connections of a source are opened at a time.
	holdConcurrency = 2
	// holdTimeout bounds each.
	holdTimeout = 10 * time.Second
	// memoryWait is how long the kernel may take to give back what was needed for a while
	// only, such as another lab.
	memoryWait  = 3 * time.Second
	memoryPause = 100 * time.Millisecond
	// memoryStill is how much it may change in a pause, in octets, if it is done.
	memoryStill = 64 << 10
)

const kilobyte = 1024

// runMemory measures what connections that are held cost.
func runMemory(ctx context.Context, st *stage) (values, error) {
	if _, err := st.Server.CountAccepts(web, integration.AcceptOptions{Echo: true, CloseOnEOF: true}); err != nil {
		return nil, err
	}
	st.hold(ctx, 1) // what is made once
	user, kernel, err := st.memory()
	if err != nil {
		return nil, err
	}
	held := st.hold(ctx, st.held/integration.ClientAddrs)
	userAfter, kernelAfter, err := st.memory()
	if err != nil {
		return nil, err
	}
	if held == 0 {
		return nil, fmt.Errorf("no connection is held")
	}
	found := values{"held": float64(held), "kernel": (kernelAfter - kernel) / float64(held)}
	if st.daemon != 0 {
		found["resident"] = user / (kilobyte * kilobyte)
		found["user"] = (userAfter - user) / float64(held)
	}
	return found, nil
}

// hold has each client address hold n connections more, and returns how many there are.
func (st *stage) hold(ctx context.Context, n int) int {
	holders := make([]*integration.Holder, integration.ClientAddrs)
	var wg sync.WaitGroup
	for i := range holders {
		wg.Go(func() {
			holders[i] = st.Client.Hold(ctx, integration.HoldOptions{
				From: integration.ClientAddr(integration.IPv4, i), To: st.to,
				N: n, Concurrency: holdConcurrency, Timeout: holdTimeout,
			})
		})
	}
	wg.Wait()
	total := 0
	for _, h := range holders {
		total += h.Count(integration.Held)
	}
	return total
}

// memory is what the daemon has resident and what the kernel cannot reclaim, in octets.
func (st *stage) memory() (user, kernel float64, err error) {
	if st.daemon != 0 {
		f, err := integration.FootprintOf(st.daemon)
		if err != nil {
			return 0, 0, err
		}
		user = float64(f.Kilobytes) * kilobyte
	}
	kernel, err = stillMemory()
	return user, kernel, err
}

// stillMemory waits until the kernel's memory hardly changes.
func stillMemory() (float64, error) {
	before, err := kernelMemory()
	for end := time.Now().Add(memoryWait); err == nil && time.Now().Before(end); {
		time.Sleep(memoryPause)
		var now float64
		now, err = kernelMemory()
		if math.Abs(now-before) <= memoryStill {
			return now, err
		}
		before = now
	}
	return before, err
}

// connectionCaches begin the names of the kernel's caches from which connections, and what
// tracks them, are made. Others grow by whatever the machine does besides.
var connectionCaches = []string{"TCP", "sock_inode_cache", "filp", "nf_conntrack", "nft", "kmalloc", "skbuff", "request_sock", "tw_sock"}

// kernelMemory is that of the kernel's objects which are in use. What their caches keep
// beyond them (SUnreclaim has that too) depends on what was measured before.
func kernelMemory() (octets float64, err error) {
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var active, total, size float64
		if _, err := fmt.Sscan(line, &name, &active, &total, &size); err != nil {
			continue // two lines are headings
		}
		if slices.ContainsFunc(connectionCaches, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			octets += active * size
		}
	}
	return octets, nil
}
