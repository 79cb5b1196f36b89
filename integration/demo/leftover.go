package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"nfqfw/integration"
)

// markName is an environment variable that everything started by the demo
// inherits, and by which it is found wherever it may have gone.
const markName = "NFQFW_DEMO"

// traces knows what the demo has made, and finds what is left of it.
type traces struct {
	mark   string
	before []string // chains that this machine had of its own

	namespaces, processes, chains int // that came with the labs
}

// begin marks the process, before it starts any other.
func (t *traces) begin(ctx context.Context) (err error) {
	t.mark = fmt.Sprintf("%s=%d", markName, os.Getpid())
	if err := os.Setenv(markName, fmt.Sprint(os.Getpid())); err != nil {
		return err
	}
	t.before, err = hostChains(ctx)
	return err
}

// count adds up what a stage has before it is struck.
func (t *traces) count(ctx context.Context, st *stage) error {
	chains, err := gatewayChains(ctx, st.Gateway)
	if err != nil {
		return err
	}
	processes, err := t.running()
	t.namespaces += 3
	t.processes += len(processes)
	t.chains += len(chains)
	return err
}

func showLeftovers(ctx context.Context, st *stage) error {
	t := &st.traces
	left, err := t.left(ctx)
	if err != nil {
		return err
	}
	st.report.saw("came and went: %d namespaces, %d processes, %d chains; left: %d", t.namespaces, t.processes, t.chains, len(left))
	if len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	return nil
}

// left lists what the demo has left behind.
func (t *traces) left(ctx context.Context) ([]string, error) {
	own := fmt.Sprintf("nfqfw-%d-", os.Getpid())
	names, err := integration.Leftovers()
	if err != nil {
		return nil, err
	}
	left := slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, own) })
	files, err := filepath.Glob(filepath.Join(os.TempDir(), own+"*"))
	if err != nil {
		return nil, err
	}
	processes, err := t.running()
	if err != nil {
		return nil, err
	}
	chains, err := hostChains(ctx)
	if err != nil {
		return nil, err
	}
	chains = slices.DeleteFunc(chains, func(c string) bool { return slices.Contains(t.before, c) })
	return slices.Concat(left, files, processes, chains), nil
}

// running lists the processes that the demo has started.
func (t *traces) running() ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, dir := range dirs {
		environment, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // it has just ended
		}
		if slices.ContainsFunc(bytes.Split(environment, []byte{0}), func(e []byte) bool { return string(e) == t.mark }) {
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			list = append(list, fmt.Sprintf("process %s (%s)", filepath.Base(dir), bytes.TrimSpace(name)))
		}
	}
	return list, nil
}

// savers print the rules of both families.
var savers = []string{"iptables-save", "ip6tables-save"}

// hostChains lists nfqfw's chains on this machine, outside of any lab.
func hostChains(ctx context.Context) ([]string, error) {
	return chains(func(saver string) ([]byte, error) { return exec.CommandContext(ctx, saver).Output() })
}

// gatewayChains lists those in a namespace.
func gatewayChains(ctx context.Context, n *integration.Namespace) ([]string, error) {
	return chains(func(saver string) ([]byte, error) { return n.Command(ctx, saver).Output() })
}

func chains(save func(saver string) ([]byte, error)) ([]string, error) {
	var list []string
	for _, saver := range savers {
		out, err := save(saver)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", saver, err)
		}
		for line := range strings.Lines(string(out)) {
			if name, _, ok := strings.Cut(line, " "); ok && strings.HasPrefix(name, ":NFQFW-") {
				list = append(list, "chain "+strings.TrimPrefix(name, ":"))
			}
		}
	}
	return list, nil
}
