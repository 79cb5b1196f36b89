package offload

import (
	"fmt"
	"os"
)

// Usage is how many entries the conntrack table has, and how many it may have, in the
// network namespace of the calling thread.
func Usage() (entries, limit int, err error) {
	if entries, err = readNumber("nf_conntrack_count"); err != nil {
		return 0, 0, err
	}
	limit, err = readNumber("nf_conntrack_max")
	return entries, limit, err
}

func readNumber(setting string) (n int, err error) {
	b, err := os.ReadFile(Setting(setting).file())
	if err == nil {
		_, err = fmt.Sscan(string(b), &n)
	}
	if err != nil {
		return 0, fmt.Errorf("offload: %s: %w", setting, err)
	}
	return n, nil
}
