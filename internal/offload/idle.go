package offload

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// timeoutNames are the sysctls net.netfilter.nf_conntrack_tcp_timeout_* that
// the kernel sets an entry's timeout from, by the entry's state.
var timeoutNames = map[TCPState]string{
	SynSent: "syn_sent", SynRecv: "syn_recv", Established: "established", FinWait: "fin_wait",
	CloseWait: "close_wait", LastAck: "last_ack", TimeWait: "time_wait", Close: "close",
}

// Idle is how long the kernel has seen no packet of an entry, at least: it is
// what has passed of the timeout that the last packet set. While data is not
// acknowledged that is a shorter one than the state's. The kernel tells whole
// seconds, rounded down.
func Idle(e Entry) (time.Duration, error) {
	full, err := timeoutOf(timeoutNames[e.State])
	if err != nil {
		return 0, err
	}
	short, err := timeoutOf("unacknowledged")
	if err != nil {
		return 0, err
	}
	if e.Timeout <= short {
		full = min(full, short)
	}
	return max(full-e.Timeout-time.Second, 0), nil
}

func timeoutOf(name string) (time.Duration, error) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_" + name)
	if err != nil {
		return 0, fmt.Errorf("offload: conntrack timeout: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("offload: conntrack timeout %s: %w", name, err)
	}
	return time.Duration(n) * time.Second, nil
}
