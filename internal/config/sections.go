package config

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"unicode"

	"nfqfw/synproxy"
)

// readDaemon reads [daemon].
func readDaemon(s section, d *Daemon) {
	s.read([]field{
		{key: "control", value: text(func(p string) error {
			d.Control = p
			return checkSocketPath(p)
		})},
		{key: "control_group", value: text(func(name string) error {
			d.ControlGroup = name
			return checkGroup(name)
		})},
		{key: "queues", value: number(&d.Queues, 0, MaxQueues)},
		{key: "when_down", value: word(&d.WhenDown, whenDownWords)},
		{key: "bpf", value: word(&d.BPF, bpfWords)},
	})
}

func checkSocketPath(p string) error {
	switch {
	case !path.IsAbs(p):
		return fmt.Errorf("%s is not an absolute path", shown(p))
	case len(p) > MaxSocketPath:
		return fmt.Errorf("the path has %d bytes; a socket's has %d at most", len(p), MaxSocketPath)
	case strings.ContainsRune(p, 0):
		return errors.New("a path cannot hold a NUL byte")
	case strings.HasSuffix(p, "/"):
		return fmt.Errorf("%s is a directory, not the path of a socket", shown(p))
	}
	return nil
}

// checkGroup takes what can be a group's name or number (shadow's is_valid_name is
// stricter). Whether there is such a group is another machine's affair.
func checkGroup(name string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) || r == ':' }
	if name == "" || strings.ContainsFunc(name, odd) {
		return fmt.Errorf("%s cannot be the name of a group", shown(name))
	}
	return nil
}

// readLimits reads [limits].
func readLimits(s section, l *Limits) {
	s.read([]field{
		{key: "states", value: number(&l.States, 1, math.MaxInt32)},
		{key: "src_nodes", value: number(&l.SrcNodes, 1, math.MaxInt32)},
		{key: "table_entries", value: number(&l.TableEntries, 1, math.MaxInt32)},
		{key: "tables", foreign: "there are as many tables as the file has"},
		{key: "frags", foreign: "the kernel puts fragments together (net.ipv4.ipfrag_high_thresh)"},
	})
}

// readSyncookies reads [syncookies].
func readSyncookies(s section, c *Syncookies) {
	s.read([]field{
		{key: "mode", value: word(&c.Mode, synproxy.CookieModes)},
		{key: "start", value: share(&c.Start)},
		{key: "end", value: share(&c.End)},
	})
	if c.End >= c.Start {
		s.fail("end", fmt.Errorf("%s is not less than start, %s: what was switched on would not go off", percent(c.End), percent(c.Start)))
	}
}
