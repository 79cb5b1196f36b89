package main

import (
	"context"
	"fmt"
	"os"
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
	// memoryWait is how long the kernel may take to give back what opening took.
	memoryWait = 500 * time.Millisecond
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
	time.Sleep(memoryWait)
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
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\nSUnreclaim:")
	if _, err := fmt.Sscan(rest, &kernel); err != nil {
		return 0, 0, fmt.Errorf("read /proc/meminfo: %w", err)
	}
	return user, kernel * kilobyte, nil
}
