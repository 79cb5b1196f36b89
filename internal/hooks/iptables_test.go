package hooks

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	failed := errors.New("exit status 1")
	tests := []struct {
		name, complaint string
		err             error
		want            string
	}{
		{"no tool", "", &exec.Error{Name: "iptables-restore", Err: exec.ErrNotFound},
			"hooks: iptables-restore: not found in PATH; install the iptables package"},
		{"not root", "iptables-restore v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)\n", failed,
			"hooks: iptables-restore: permission denied; run as root (CAP_NET_ADMIN)"},
		{"no lock", "Fatal: can't open lock file /run/xtables.lock: Permission denied\n", failed,
			"hooks: iptables-restore: Fatal: can't open lock file /run/xtables.lock: Permission denied; " +
				"run as root, use the nft back end, or name a lock with $XTABLES_LOCKFILE"},
		{"no target", "Warning: Extension NFQUEUE revision 0 not supported, missing kernel module?\niptables-restore: line 2 failed: No such file\n", failed,
			"hooks: iptables-restore: the kernel has no NFQUEUE; load the module xt_NFQUEUE, or enable it in the kernel: " +
				"Warning: Extension NFQUEUE revision 0 not supported, missing kernel module? iptables-restore: line 2 failed: No such file"},
		{"no table", "iptables-restore v1.8.9 (legacy): iptables-restore: can't initialize iptables table `raw': Table does not exist\n", failed,
			"hooks: iptables-restore: the kernel has no table raw; load the module iptable_raw or ip6table_raw: " +
				"iptables-restore v1.8.9 (legacy): iptables-restore: can't initialize iptables table `raw': Table does not exist"},
		{"bad line", "Error occurred at line: 2\n", failed,
			"hooks: iptables-restore: exit status 1: Error occurred at line: 2 (second)"},
		{"line out of range", "line 99 failed", failed, "hooks: iptables-restore: exit status 1: line 99 failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := explain(t.Context(), "iptables-restore", "first\nsecond\n", tt.complaint, tt.err)
			if got.Error() != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestToolMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := read(t.Context(), IPv6); err == nil || !strings.Contains(err.Error(), "hooks: ip6tables-save: not found in PATH") {
		t.Errorf("got %v", err)
	}
}

// Check looks for every tool before anything is changed.
func TestCheck(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	h := New(Config{}, slog.New(slog.DiscardHandler))
	families, err := h.families()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, verb := range []string{"save", "restore"} {
			tool := f.command(verb)
			want := "hooks: " + tool + ": not found in PATH; install the iptables package"
			if err := h.Check(); err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
			if err := os.WriteFile(filepath.Join(dir, tool), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := h.Check(); err != nil {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read(ctx, IPv4); !errors.Is(err, context.Canceled) && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A tool that a signal ends is asked again, once.
func TestSignalledToolIsAskedAgain(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, tt := range []struct{ name, script string }{
		{"once", "#!/bin/sh\n[ -e " + dir + "/was ] || { : > " + dir + "/was; kill $$; }\necho \"*$2\"\necho ':NFQFW-SYN - [0:0]'\n"},
		{"always", "#!/bin/sh\nkill $$\n"},
	} {
		if err := os.WriteFile(filepath.Join(dir, "iptables-save"), []byte(tt.script), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := read(t.Context(), IPv4)
		if once := tt.name == "once"; once != (err == nil) || once != (len(got) == len(tables)) {
			t.Errorf("%s: %v, %v", tt.name, got, err)
		}
	}
}
