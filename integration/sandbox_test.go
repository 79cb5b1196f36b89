package integration

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// unitFile is the unit that is installed.
const unitFile = "../packaging/nfqfw.service"

// sandboxed is the variable that makes the test program one that runs the words after it
// as systemd would run them by the unit of that path, as far as this can be done without
// systemd: its capabilities are setpriv's affair, see unitWords.
const sandboxed = "NFQFW_TEST_SANDBOX"

// The daemon does in the unit's sandbox what it does outside.
func TestUnitSandbox(t *testing.T) {
	Require(t, Root, Program("setpriv"), Program("systemd-analyze"))
	unit := must[string](t, "unit")(filepath.Abs(unitFile))
	for _, tt := range []struct {
		name   string
		legacy bool
	}{{"nft", false}, {"legacy", true}} {
		t.Run(tt.name, func(t *testing.T) {
			through := []string{"env", sandboxed + "=" + unit}
			if tt.legacy {
				through = append(through, "PATH="+legacyTools(t)+":"+os.Getenv("PATH"))
			}
			testPrivilege(t, append(through, os.Args[0]), tt.legacy)
		})
	}
}

// What the sandbox forbids is forbidden: else the test above would show nothing.
func TestSandboxHolds(t *testing.T) {
	Require(t, Root, Namespaces, Program("setpriv"), Program("systemd-analyze"))
	unit := must[string](t, "unit")(filepath.Abs(unitFile))
	for _, words := range [][]string{
		{"touch", "/etc/nfqfw-test"},
		{"sysctl", "-qw", "kernel.panic=0"},
		{"mount", "-t", "tmpfs", "none", "/mnt"},
		{"unshare", "-n", "true"},
	} {
		cmd := exec.Command(os.Args[0], words...)
		cmd.Env = append(os.Environ(), sandboxed+"="+unit)
		if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "sandbox:") {
			t.Errorf("%v: %v %s", words, err, out)
		}
	}
	cmd := exec.Command(os.Args[0], "true")
	cmd.Env = append(os.Environ(), sandboxed+"="+unit)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nothing can be run: %v %s", err, out)
	}
}

// systemd finds nothing wrong with the unit, and little that it leaves open.
func TestUnit(t *testing.T) {
	Require(t, Program("systemd-analyze"))
	text := string(must[[]byte](t, "unit")(os.ReadFile(unitFile)))
	binary := must[string](t, "build")(program())
	path := filepath.Join(t.TempDir(), "nfqfw.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "/usr/local/sbin/nfqfw", binary)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", "--man=no", path}, {"security", "--offline=true", "--threshold=35", path}} {
		if out, err := exec.Command("systemd-analyze", args...).CombinedOutput(); err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

// runSandboxed becomes the program of the words, in the sandbox of a unit.
func runSandboxed(unit string, words []string) error {
	runtime.LockOSThread() // until the program takes the place of all threads
	set, err := readUnit(unit)
	if err != nil {
		return err
	}
	path, err := exec.LookPath("setpriv")
	if err != nil {
		return err
	}
	filter, err := filterOf(set)
	if err != nil {
		return err
	}
	if err := errors.Join(protect(set, words), seccomp.LoadFilter(filter)); err != nil {
		return err
	}
	return unix.Exec(path, append(unitWords(set), words...), os.Environ())
}

// readUnit gives the words of each setting of a unit.
func readUnit(path string) (map[string][]string, error) {
	text, err := os.ReadFile(path)
	set := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			set[key] = append(set[key], strings.Fields(value)...)
		}
	}
	return set, err
}

// unitWords start a program with the capabilities of a unit.
func unitWords(set map[string][]string) []string {
	list := "-all"
	for _, name := range set["CapabilityBoundingSet"] {
		list += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	return []string{"setpriv", "--no-new-privs", "--bounding-set=" + list, "--inh-caps=" + list, "--ambient-caps=" + list}
}

// protect makes the file system what ProtectSystem=strict does; the folder of the control
// socket, which the last word names, is in place of RuntimeDirectory.
func protect(set map[string][]string, words []string) error {
	if !slices.Equal(set["ProtectSystem"], []string{"strict"}) {
		return errors.New("only ProtectSystem=strict is known here")
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	readOnly := map[string]bool{"/": true, "/dev": false, "/proc": false, "/sys": false}
	for _, path := range set["ReadWritePaths"] {
		readOnly[strings.TrimPrefix(path, "-")] = false
	}
	if last := words[len(words)-1]; strings.HasSuffix(last, ".sock") {
		readOnly[filepath.Dir(last)] = false
	}
	for _, path := range set["ReadOnlyPaths"] {
		readOnly[strings.TrimPrefix(path, "-")] = true
	}
	var err error
	for _, path := range slices.Sorted(maps.Keys(readOnly)) { // what is above comes first
		err = errors.Join(err, setReadOnly(path, readOnly[path]))
	}
	return err
}

// setReadOnly makes a folder a mount of its own, with all below it.
func setReadOnly(path string, yes bool) error {
	if err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if !yes {
		attr = unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	return nil
}

// filterOf is the filter of a unit's SystemCallFilter, RestrictAddressFamilies and, as
// far as mprotect goes, MemoryDenyWriteExecute.
func filterOf(set map[string][]string) (seccomp.Filter, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Filter{}, err
	}
	var allowed []string
	for _, word := range set["SystemCallFilter"] {
		if allowed, err = appendCalls(allowed, word, info); err != nil {
			return seccomp.Filter{}, err
		}
	}
	allowed = slices.DeleteFunc(allowed, func(name string) bool { return name == "socket" || name == "mprotect" })
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow, Names: allowed}
	allow := func(call string, argument uint32, op seccomp.Operation, value uint64) {
		group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{
			Name: call, Conditions: []seccomp.Condition{{Argument: argument, Operation: op, Value: value}},
		})
	}
	families := map[string]uint64{"AF_UNIX": unix.AF_UNIX, "AF_NETLINK": unix.AF_NETLINK, "AF_INET": unix.AF_INET, "AF_INET6": unix.AF_INET6}
	for _, name := range set["RestrictAddressFamilies"] {
		allow("socket", 0, seccomp.Equal, families[name])
	}
	allow("mprotect", 2, seccomp.BitsNotSet, unix.PROT_EXEC)
	return seccomp.Filter{NoNewPrivs: true, Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{group},
	}}, nil
}

// appendCalls adds a system call, or those of a set, of which systemd has the list.
func appendCalls(calls []string, word string, info *arch.Info) ([]string, error) {
	if !strings.HasPrefix(word, "@") {
		if _, known := info.SyscallNames[word]; known && !slices.Contains(calls, word) {
			calls = append(calls, word)
		}
		return calls, nil
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", word).Output()
	for line := range strings.Lines(string(out)) {
		if name := strings.TrimSpace(line); err == nil && name != "" && name != word && name[0] != '#' {
			calls, err = appendCalls(calls, name, info)
		}
	}
	return calls, err
}
