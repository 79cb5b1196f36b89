package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A machine is on what was measured, and with what.
type machine struct {
	Processors int      `json:"processors"`
	Model      string   `json:"model"`
	Memory     string   `json:"memory"`
	Kernel     string   `json:"kernel"`
	Go         string   `json:"go"`
	Programs   []string `json:"programs"` // what each says of its version
}

// versions are how the programs are asked for their versions.
var versions = [][]string{{"iptables", "--version"}, {"nft", "--version"}, {"haproxy", "-v"}, {"iperf3", "--version"}}

// describe looks at this machine.
func describe(ctx context.Context) (machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return machine{}, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return machine{}, fmt.Errorf("ask for the memory: %w", err)
	}
	m := machine{
		Processors: runtime.NumCPU(), Model: processorModel(), Go: runtime.Version(),
		Memory: fmt.Sprintf("%d MB", uint64(info.Totalram)*uint64(info.Unit)>>20),
		Kernel: unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:]) + " " + unix.ByteSliceToString(name.Machine[:]),
	}
	for _, words := range versions {
		out, err := exec.CommandContext(ctx, words[0], words[1:]...).Output()
		if err != nil {
			return m, fmt.Errorf("ask %s for its version: %w", words[0], err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		first, _, _ = strings.Cut(first, " - ") // an address
		m.Programs = append(m.Programs, strings.TrimSpace(first))
	}
	return m, nil
}

// processorModel is what the kernel calls the first processor; not all have a name.
func processorModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := strings.Cut(string(text), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(line, "\t :")
}

// commit is what stands in the working directory, as far as git knows.
func commit(ctx context.Context) string {
	name, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output()
	if err != nil || len(changed) > 0 {
		return strings.TrimSpace(string(name)) + " and changes that are not committed"
	}
	return strings.TrimSpace(string(name))
}
