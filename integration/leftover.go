package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where named namespaces are mounted, as ip-netns(8) does it.
const netnsDir = "/run/netns"

// Leftovers returns the names of namespaces that nobody will remove: those of
// this process, if no lab is open, and those of dead processes.
func Leftovers() ([]string, error) {
	return named(func(pid int) bool { return pid == os.Getpid() || !alive(pid) })
}

// Sweep removes the namespaces of processes that died without closing their
// labs, with what still runs in them, and their temporary directories.
func Sweep() error {
	dead := func(pid int) bool { return !alive(pid) }
	names, err := named(dead)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, sweepName(name))
	}
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), namePrefix+"*"))
	errs = append(errs, err)
	for _, d := range dirs {
		if pid, ok := ownerOf(filepath.Base(d)); ok && dead(pid) {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	return errors.Join(errs...)
}

// named lists our namespaces whose owner is chosen.
func named(choose func(pid int) bool) ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if pid, ok := ownerOf(e.Name()); ok && choose(pid) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ownerOf reads the process id out of a name the lab gave.
func ownerOf(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	if !ok {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	return pid, err == nil && pid > 0
}

// alive tells whether a process runs. One that has ended but was not reaped
// can be signalled still, but has no namespaces any more.
func alive(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return !errors.Is(err, fs.ErrNotExist)
}

// sweepName removes one namespace of a dead process. Another process may be
// doing the same, so a namespace that is gone is as good.
func sweepName(name string) error {
	handle, err := netns.GetFromName(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("open namespace %s: %w", name, err)
	}
	return errors.Join(killAll(handle), handle.Close(), removeName(name))
}

// removeName removes the name; the namespace goes when nothing uses it.
func removeName(name string) error {
	path := filepath.Join(netnsDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	// EINVAL: it was never mounted, and only the file is there.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount namespace %s: %w", name, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", name, err)
	}
	return nil
}

// killAll ends every process in the namespace. Only the lab starts any there,
// but some outlive their parent, such as the workers of a killed server.
func killAll(ns netns.NsHandle) error {
	for deadline := time.Now().Add(stopGrace); ; time.Sleep(pollEvery) {
		pids, err := processes(ns)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill what runs in the namespace: %v still there", pids)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already is as good
		}
	}
}

// processes lists the processes in the namespace, this one never.
func processes(ns netns.NsHandle) ([]int, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(ns), &want); err != nil {
		return nil, fmt.Errorf("look at namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var got unix.Stat_t
		// An error means a zombie or a process that just ended.
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &got) == nil && got.Dev == want.Dev && got.Ino == want.Ino {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
