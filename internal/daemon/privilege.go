package daemon

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// privileged says whether the process may do what the daemon does: bind queues,
// change the conntrack table and iptables (CAP_NET_ADMIN), and send in the name
// of others (CAP_NET_RAW).
func privileged() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("daemon: ask for the capabilities: %w", err)
	}
	const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	if sets[0].Effective&needed != needed {
		return errors.New("daemon: not permitted to filter packets; run as root, or with CAP_NET_ADMIN and CAP_NET_RAW")
	}
	return nil
}
