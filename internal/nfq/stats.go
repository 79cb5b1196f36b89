package nfq

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Counters are what a Queue has done since Open.
type Counters struct {
	Packets       uint64 // judged
	Batches       uint64 // into how many sends their verdicts went
	Passed        uint64
	Dropped       uint64
	Overruns      uint64 // ENOBUFS: the kernel lost packets for want of socket buffer
	Malformed     uint64 // messages that could not be parsed
	VerdictErrors uint64 // verdicts that the kernel refused or that could not be sent
	Panics        uint64 // of the handler
}

type counters struct {
	packets, batches, passed, overruns, malformed, verdictErrors, panics atomic.Uint64
}

func (c *counters) count(packets, passed int) {
	c.packets.Add(uint64(packets))
	c.batches.Add(1)
	c.passed.Add(uint64(passed))
}

// Counters may be called by any goroutine at any time.
func (c *counters) Counters() Counters {
	passed, packets := c.passed.Load(), c.packets.Load()
	return Counters{
		Packets: packets, Batches: c.batches.Load(), Passed: passed, Dropped: packets - passed,
		Overruns: c.overruns.Load(), Malformed: c.malformed.Load(),
		VerdictErrors: c.verdictErrors.Load(), Panics: c.panics.Load(),
	}
}

// KernelStats is the kernel's line on a queue in
// /proc/net/netfilter/nfnetlink_queue (nfnetlink_queue.c: seq_show).
type KernelStats struct {
	Number           uint16
	PortID           uint32 // the netlink port that bound it, mostly the id of the process
	Waiting          uint32 // packets without a verdict
	CopyMode         uint8
	CopyRange        uint32
	QueueDropped     uint32 // packets dropped since the queue was full
	QueueUserDropped uint32 // packets dropped since the socket's buffer was full
	LastID           uint32 // the number of the newest packet
}

// Stats reads what the kernel counts on a queue, in the network namespace of
// the calling thread. ok is false if nobody has bound the queue.
func Stats(number uint16) (s KernelStats, ok bool, err error) {
	b, err := os.ReadFile("/proc/thread-self/net/netfilter/nfnetlink_queue")
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, fmt.Errorf("nfq: stats: the kernel has no NFQUEUE: %w", err)
	}
	if err != nil {
		return s, false, fmt.Errorf("nfq: stats: %w", err)
	}
	for lines := bufio.NewScanner(strings.NewReader(string(b))); lines.Scan(); {
		if s, err = parseStats(lines.Text()); err != nil {
			return s, false, fmt.Errorf("nfq: stats: line %q: %w", lines.Text(), err)
		}
		if s.Number == number {
			return s, true, nil
		}
	}
	return KernelStats{}, false, nil
}

func parseStats(line string) (s KernelStats, err error) {
	_, err = fmt.Sscan(line, &s.Number, &s.PortID, &s.Waiting, &s.CopyMode, &s.CopyRange,
		&s.QueueDropped, &s.QueueUserDropped, &s.LastID)
	return s, err
}

// explainQueue is explain for a queue.
func explainQueue(err error, number uint16) error {
	holder := ""
	if s, ok, _ := Stats(number); ok {
		holder = fmt.Sprintf("another process (netlink port %d)", s.PortID)
	}
	return explain(err, holder, "NFQUEUE (CONFIG_NETFILTER_NETLINK_QUEUE)")
}

// explain says in words what the kernel means by an error of opening. It answers EPERM for
// what another socket has bound, its holder, if any, as well as for a missing capability.
func explain(err error, holder, feature string) error {
	switch {
	case errors.Is(err, unix.EPERM) && holder != "":
		return fmt.Errorf("%w by %s", ErrTaken, holder)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("needs root or CAP_NET_ADMIN: %w", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the kernel has no %s: %w", feature, err)
	}
	return err
}
