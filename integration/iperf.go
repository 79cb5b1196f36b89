package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// iperfTimeout bounds one transfer.
const iperfTimeout = 20 * time.Second

// iperfReport is what iperf3 --json prints, as far as it matters here.
type iperfReport struct {
	End struct {
		Received struct {
			BitsPerSecond float64 `json:"bits_per_second"`
		} `json:"sum_received"`
	}
	Error string
}

// StartIperf starts an iperf3 server inside the namespace and waits until it listens.
// It ends with the lab.
func (n *Namespace) StartIperf(ctx context.Context, port uint16) error {
	server := n.Command(context.WithoutCancel(ctx), "iperf3", "--server", "--port", strconv.Itoa(int(port)))
	if err := server.Start(); err != nil {
		return fmt.Errorf("iperf3: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	err := Poll(ctx, func() bool {
		list, err := n.Sockets(Listen)
		return err == nil && len(list.Local(port)) > 0
	})
	if err != nil {
		return fmt.Errorf("iperf3: does not listen on port %d: %w", port, err)
	}
	return nil
}

// Iperf transfers data between the namespace and an iperf3 server and returns the
// throughput in Gbit/s. Between two transfers the server closes its listening socket
// and opens another: who comes in between is refused, and comes again.
func (n *Namespace) Iperf(ctx context.Context, to netip.AddrPort, args ...string) (float64, error) {
	args = append([]string{"--client", to.Addr().String(), "--port", strconv.Itoa(int(to.Port())), "--json"}, args...)
	ctx, cancel := context.WithTimeout(ctx, iperfTimeout)
	defer cancel()
	var report iperfReport
	var out []byte
	err := Poll(ctx, func() bool {
		var err error
		out, err = n.Command(ctx, "iperf3", args...).Output()
		report = iperfReport{}
		refused := json.Unmarshal(out, &report) == nil && strings.Contains(report.Error, "Connection refused")
		return err == nil || !refused
	})
	if report.Error != "" {
		err = errors.Join(err, errors.New(report.Error))
	}
	if err == nil && report.End.Received.BitsPerSecond == 0 {
		err = fmt.Errorf("no throughput in its report: %s", out)
	}
	if err != nil {
		return 0, fmt.Errorf("iperf3: %w", err)
	}
	return report.End.Received.BitsPerSecond / 1e9, nil
}
