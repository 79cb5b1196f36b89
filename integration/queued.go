package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Queued returns how many packets have gone to user space through the
// namespace's kernel queues since somebody bound these.
func (n *Namespace) Queued() (packets uint64, err error) {
	packets, _, err = n.queues()
	return packets, err
}

// WaitJudged waits until no packet waits for a verdict.
func (n *Namespace) WaitJudged(ctx context.Context) error {
	var failed error
	err := Poll(ctx, func() bool {
		_, waiting, err := n.queues()
		failed = err
		return err != nil || waiting == 0
	})
	return errors.Join(err, failed)
}

func (n *Namespace) queues() (packets, waiting uint64, err error) {
	var text []byte
	err = n.onResident(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
		return err
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count queued packets of %s: %w", n.Name, err)
	}
	for line := range strings.Lines(string(text)) {
		// Number, port, waiting, copy mode and range, two kinds of drops; then
		// the number of the newest packet, which counts from 1.
		var other [7]int
		var last uint64
		if _, err := fmt.Sscan(line, &other[0], &other[1], &other[2], &other[3], &other[4], &other[5], &other[6], &last); err != nil {
			return 0, 0, fmt.Errorf("count queued packets of %s: line %q: %w", n.Name, line, err)
		}
		packets += last
		waiting += uint64(other[2])
	}
	return packets, waiting, nil
}
