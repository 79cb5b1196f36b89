package offload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"nfqfw/internal/packet"
)

// Setting is something that the kernel notes of each connection that begins while it
// is on, in the network namespace of the calling thread.
type Setting string

// The settings.
const (
	Accounting Setting = "nf_conntrack_acct"      // packets and octets
	Timestamps Setting = "nf_conntrack_timestamp" // when it began
)

// Liberal is that the kernel looks at no window: whoever guesses may close connections.
const Liberal Setting = "nf_conntrack_tcp_be_liberal"

func (s Setting) file() string { return "/proc/sys/net/netfilter/" + string(s) }

// Set turns the setting on or off, and says what it was before.
func (s Setting) Set(on bool) (was bool, err error) {
	if was, err = s.On(); err != nil || was == on {
		return was, err
	}
	value := "0"
	if on {
		value = "1"
	}
	if err := os.WriteFile(s.file(), []byte(value), 0); err != nil {
		return was, fmt.Errorf("offload: %s: %w", s, err)
	}
	return was, nil
}

// On says whether the setting is on.
func (s Setting) On() (bool, error) {
	b, err := readSetting(s.file())
	return err == nil && strings.TrimSpace(string(b)) != "0", err
}

// readSetting reads a setting. It is missing where conntrack is a module
// that nobody has needed so far.
func readSetting(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = loadConntrack(); err == nil {
			b, err = os.ReadFile(file)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("offload: a setting of conntrack: %w", err)
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
