package offload

import (
	"fmt"
	"os"
	"strings"
)

const accountingFile = "/proc/sys/net/netfilter/nf_conntrack_acct"

// SetAccounting has the kernel count the packets and octets of connections that
// begin from now on, or not, in the network namespace of the calling thread. It
// says what the setting was before.
func SetAccounting(on bool) (was bool, err error) {
	before, err := os.ReadFile(accountingFile)
	if err != nil {
		return false, fmt.Errorf("offload: conntrack accounting: %w", err)
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
