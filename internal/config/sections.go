package config

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
)

// readDaemon reads [daemon].
func readDaemon(s section, d *Daemon) {
	s.read([]field{
		{key: "control", value: text(func(p string) error {
			d.Control = p
			return checkSocketPath(p)
		})},
		{key: "queues", value: number(&d.Queues, 0, MaxQueues)},
		{key: "when_down", value: word(&d.WhenDown, whenDownWords)},
	})
}

// maxSocketPath is what fits into sockaddr_un's sun_path with its final NUL (unix(7)).
const maxSocketPath = 107

func checkSocketPath(p string) error {
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%s is not an absolute path", shown(p))
	case len(p) > maxSocketPath:
		return fmt.Errorf("the path has %d bytes; a socket's has %d at most", len(p), maxSocketPath)
	case strings.ContainsRune(p, 0):
		return errors.New("a path cannot hold a NUL byte")
	case strings.HasSuffix(p, "/"):
		return fmt.Errorf("%s is a directory, not the path of a socket", shown(p))
	}
	return nil
}

// readLimits reads [limits].
func readLimits(s section, l *Limits) {
	s.read([]field{
		{key: "states", value: number(&l.States, 1, math.MaxInt32)},
		{key: "src_nodes", value: number(&l.SrcNodes, 1, math.MaxInt32)},
	})
}

// readSyncookies reads [syncookies], of which there is only "never".
func readSyncookies(s section) {
	s.read([]field{
		{key: "mode", value: text(func(mode string) error {
			switch mode {
			case "never":
				return nil
			case "always", "adaptive":
				return fmt.Errorf("%q: %w", mode, notYet("has no SYN cookies", `write "never"`))
			}
			return fmt.Errorf("%s is not %s", shown(mode), either([]string{"never", "always", "adaptive"}))
		})},
		{key: "start", notYet: "has no SYN cookies"},
		{key: "end", notYet: "has no SYN cookies"},
	})
}

// refuseTables refuses every [table.NAME].
func refuseTables(s section) {
	for _, name := range s.table.names() {
		s.fail(name, notYet("has no tables", fmt.Sprintf("remove [table.%s]", shownKey(name))))
	}
}
