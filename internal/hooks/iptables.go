package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
)

// lockWait is how many seconds the legacy back end waits for its lock.
const lockWait = "5"

// command is the tool of a version of IP: "save" or "restore".
func (f Family) command(verb string) string {
	if f == IPv6 {
		return "ip6tables-" + verb
	}
	return "iptables-" + verb
}

// read asks what is installed. Of a table nobody has used it says nothing.
func read(ctx context.Context, f Family) (installed, error) {
	var all strings.Builder
	for _, t := range tables {
		save := func() (string, error) { return run(ctx, "", f.command("save"), "-t", t.name) }
		out, err := save()
		if signalled(err) { // with us, before it was in a process group of its own
			out, err = save()
		}
		if err != nil {
			return nil, err
		}
		all.WriteString(out)
	}
	return parseSaved(all.String()), nil
}

// signalled says whether a tool was ended by a signal.
func signalled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == -1
}

// restore carries out a text. Each table changes as a whole or not at all.
func restore(ctx context.Context, f Family, text string) error {
	_, err := run(ctx, text, f.command("restore"), "--noflush", "-w", lockWait)
	return err
}

// run runs a tool, without a shell, and gives what it printed.
func run(ctx context.Context, input, tool string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, args...)
	// What signals our process group, as a terminal's Ctrl-C does, does not mean the tool.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin = strings.NewReader(input)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	// Messages are searched for words: let no locale translate them.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if err := cmd.Run(); err != nil {
		return "", explain(ctx, tool, input, complaint.String(), err)
	}
	return out.String(), nil
}

func notFound(tool string) error {
	return fmt.Errorf("hooks: %s: not found in PATH; install the iptables package", tool)
}

// Words in what the tools say of a module that the kernel lacks: of an
// extension (nft back end), of a table (both).
var (
	lacksExtension = regexp.MustCompile(`Extension (\S+) revision \d+ not supported, missing kernel module`)
	lacksTable     = regexp.MustCompile("can't initialize ip6?tables table [`'](\\S+)'")
	failedLine     = regexp.MustCompile(`line:? (\d+)`)
)

// explain says why a tool failed, and what to do about it.
func explain(ctx context.Context, tool, input, complaint string, err error) error {
	complaint = strings.Join(strings.Fields(complaint), " ")
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("hooks: %s: %w", tool, ctx.Err())
	case errors.Is(err, exec.ErrNotFound):
		return notFound(tool)
	case strings.Contains(complaint, "can't open lock file"):
		return fmt.Errorf("hooks: %s: %s; run as root, use the nft back end, or name a lock with $XTABLES_LOCKFILE", tool, complaint)
	case strings.Contains(complaint, "Permission denied") || strings.Contains(complaint, "must be root"):
		return fmt.Errorf("hooks: %s: permission denied; run as root (CAP_NET_ADMIN)", tool)
	}
	if m := lacksExtension.FindStringSubmatch(complaint); m != nil {
		return fmt.Errorf("hooks: %s: the kernel has no %s; load the module xt_%s, or enable it in the kernel: %s",
			tool, m[1], m[1], complaint)
	}
	if m := lacksTable.FindStringSubmatch(complaint); m != nil {
		return fmt.Errorf("hooks: %s: the kernel has no table %s; load the module iptable_%s or ip6table_%s: %s",
			tool, m[1], m[1], m[1], complaint)
	}
	if line := lineOf(input, complaint); line != "" {
		complaint += fmt.Sprintf(" (%s)", line)
	}
	return fmt.Errorf("hooks: %s: %w: %s", tool, err, complaint)
}

// lineOf is the line of the input that a complaint names by number.
func lineOf(input, complaint string) string {
	m := failedLine.FindStringSubmatch(complaint)
	if m == nil {
		return ""
	}
	var n int
	if _, err := fmt.Sscan(m[1], &n); err != nil {
		return ""
	}
	lines := strings.Split(input, "\n")
	if n < 1 || n > len(lines) {
		return ""
	}
	return lines[n-1]
}

// kernelFamilies are the versions of IP the kernel has.
func kernelFamilies() ([]Family, error) {
	has6, err := kernelHasIPv6()
	if err != nil {
		return nil, err
	}
	if !has6 {
		return Families[:IPv6], nil
	}
	return Families, nil
}

// kernelHasIPv6 looks for a file that exists in every network namespace unless
// IPv6 is compiled out or disabled at boot.
func kernelHasIPv6() (bool, error) {
	_, err := os.Stat("/proc/net/if_inet6")
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, fmt.Errorf("hooks: look for IPv6: %w", err)
}
