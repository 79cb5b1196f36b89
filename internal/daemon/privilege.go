package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capabilities is a set of them, a bit each, by their numbers of capability.h.
type capabilities uint64

// needed are what the daemon and the tools it runs cannot do without: CAP_NET_ADMIN
// to bind queues and change the conntrack table, iptables and sets, and CAP_NET_RAW
// to send in the name of others.
const needed capabilities = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW

func (c capabilities) has(number uintptr) bool { return c>>number&1 != 0 }

// privileged says whether the process may do what the daemon does.
func privileged() error {
	_, sets, err := capget()
	if err != nil {
		return err
	}
	if capabilities(sets[0].Effective)&needed != needed { // both numbers are below 32
		return errors.New("daemon: not permitted to filter packets; run as root, or with CAP_NET_ADMIN and CAP_NET_RAW")
	}
	return nil
}

// capget asks for the sets of the calling thread, of the numbers below 32 first.
func capget() (h unix.CapUserHeader, sets [2]unix.CapUserData, err error) {
	h.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&h, &sets[0]); err != nil {
		return h, sets, fmt.Errorf("daemon: ask for the capabilities: %w", err)
	}
	return h, sets, nil
}

// confine leaves the process, and the programs it starts, what is needed, and no way to
// gain more.
//
// In a program that is linked with C nothing can be done for all threads at once: then
// the log says that nothing was dropped.
func confine(log *slog.Logger) error {
	err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	if errors.Is(err, unix.ENOTSUP) {
		log.Warn("no privilege is dropped; build nfqfw with CGO_ENABLED=0, as make build does")
		return nil
	}
	for _, step := range []func() error{bound, drop, hand} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		return fmt.Errorf("daemon: drop privileges: %w", err)
	}
	return nil
}

// bound drops the rest from the bounding set. Who has no CAP_SETPCAP, as under systemd,
// was bounded by whom that was dropped by, and can gain nothing by that set either: no
// program has more than the one that starts it.
func bound() error {
	for number := uintptr(0); ; number++ {
		in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, number, 0, 0, 0)
		switch {
		case err == unix.EINVAL:
			return nil // the kernel knows no more of them
		case err != nil:
			return err
		case in == 0 || needed.has(number):
			continue
		}
		if err := prctl(unix.PR_CAPBSET_DROP, number, 0); err == unix.EPERM {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// drop drops the rest from the sets of the process.
func drop() error {
	h, sets, err := capget()
	if err != nil {
		return err
	}
	for i := range sets {
		n := sets[i].Permitted & uint32(needed>>(32*i))
		sets[i] = unix.CapUserData{Effective: n, Permitted: n, Inheritable: n}
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&sets[0])), 0)
	return asError(errno)
}

// hand has programs of an ordinary user get what is needed.
func hand() error {
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return err
	}
	return errors.Join(
		prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_ADMIN),
		prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_NET_RAW),
	)
}

// prctl is prctl(2) for every thread: the kernel keeps privileges by thread.
func prctl(option, a, b uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, a, b, 0, 0, 0)
	return asError(errno)
}

func asError(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
