package offload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"nfqfw/internal/packet"
)

const accountingFile = "/proc/sys/net/netfilter/nf_conntrack_acct"

// SetAccounting has the kernel count the packets and octets of connections that
// begin from now on, or not, in the network namespace of the calling thread. It
// says what the setting was before.
func SetAccounting(on bool) (was bool, err error) {
	before, err := readAccounting(accountingFile)
	if err != nil {
		return false, err
	}
	was = strings.TrimSpace(string(before)) != "0"
	if was == on {
		return was, nil
	}
	value := "0"
	if on {
		value = "1"
	}
	if err := os.WriteFile(accountingFile, []byte(value), 0); err != nil {
		return was, fmt.Errorf("offload: conntrack accounting: %w", err)
	}
	return was, nil
}

// readAccounting reads the setting. It is missing where conntrack is a module
// that nobody has needed so far.
func readAccounting(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = loadConntrack(); err == nil {
			b, err = os.ReadFile(file)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("offload: the kernel has no conntrack accounting: %w", err)
	}
	return b, nil
}

// loadConntrack asks for an entry that cannot exist: the kernel loads what it
// needs to answer (nfnetlink.c: nfnetlink_rcv_msg).
func loadConntrack() error {
	t, err := Open()
	if err != nil {
		return err
	}
	defer t.Close()
	none := packet.Addr{10: 0xff, 11: 0xff} // 0.0.0.0
	_, _, err = t.Query(packet.Tuple{Src: none, Dst: none})
	return err
}
