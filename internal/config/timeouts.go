package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"nfqfw/conntrack"
)

// timeouts are what the file says of lifetimes: the preset, if any, then what
// is set one by one, wherever in the section that is written.
type timeouts struct {
	preset *conntrack.Timeouts
	set    map[conntrack.Timeout]time.Duration
}

// over applies what the file says to what holds without it.
func (t timeouts) over(base conntrack.Timeouts) conntrack.Timeouts {
	if t.preset != nil {
		base = *t.preset
	}
	for class, d := range t.set {
		base[class] = d
	}
	return base
}

// readTimeouts reads [timeouts].
func readTimeouts(s section) timeouts {
	t := timeouts{set: make(map[conntrack.Timeout]time.Duration)}
	s.readLifetimes(&t, field{key: "optimization", value: text(func(name string) error {
		preset, ok := conntrack.Optimization(name)
		if !ok {
			return fmt.Errorf("%s is not %s%s", shown(name), either(presets), didYouMean(name, presets))
		}
		t.preset = &preset
		return nil
	})})
	return t
}

// readRuleTimeouts reads the timeouts of a rule.
func readRuleTimeouts(s section) timeouts {
	t := timeouts{set: make(map[conntrack.Timeout]time.Duration)}
	s.readLifetimes(&t, field{key: "optimization", value: func(any) error {
		return errors.New("belongs into [timeouts]; a rule sets its timeouts one by one")
	}})
	return t
}

var presets = []string{"normal", "high-latency", "satellite", "aggressive", "conservative"}

func (s section) readLifetimes(t *timeouts, optimization field) {
	var twice []string
	s.table, twice = s.table.flat()
	for _, key := range twice {
		s.fail(key, errors.New("is set twice, with quotes and without"))
	}
	fields := []field{optimization}
	for c := range conntrack.Timeout(conntrack.TimeoutCount) {
		fields = append(fields, field{key: c.String(), value: func(v any) error {
			d, err := duration(v)
			t.set[c] = d
			return err
		}})
	}
	for _, key := range slices.Sorted(maps.Keys(timeoutsNotYet)) {
		fields = append(fields, field{key: key, notYet: timeoutsNotYet[key]})
	}
	s.read(fields)
}

// timeoutsNotYet are pf's other timeouts, and what this version does not do
// that they would need.
var timeoutsNotYet = map[string]string{
	"tcp.tsdiff":     "does not judge TCP timestamps",
	"adaptive.start": "does not scale its timeouts",
	"adaptive.end":   "does not scale its timeouts",
	"src.track":      "forgets a source with its last state",
	"interval":       "expires states by itself",
	"frag":           "leaves fragments to the kernel",
	"udp.first":      "filters TCP only",
	"udp.single":     "filters TCP only",
	"udp.multiple":   "filters TCP only",
	"icmp.first":     "filters TCP only",
	"icmp.error":     "filters TCP only",
	"other.first":    "filters TCP only",
	"other.single":   "filters TCP only",
	"other.multiple": "filters TCP only",
}
