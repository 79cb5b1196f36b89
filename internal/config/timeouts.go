package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"nfqfw/conntrack"
)

// timeouts are what a section of the file says of lifetimes: the preset, if any,
// then what is set one by one, wherever in the section that is written.
type timeouts struct {
	preset   *conntrack.Timeouts
	set      map[conntrack.Timeout]time.Duration
	start    *int // adaptive.start; nil: not said
	end      *int
	srcTrack *time.Duration
}

// over applies what the file says to what holds without it.
func (t timeouts) over(base conntrack.Lifetimes) conntrack.Lifetimes {
	if t.preset != nil {
		base.Timeouts = *t.preset
	}
	for class, d := range t.set {
		base.Timeouts[class] = d
	}
	replace(&base.Start, t.start)
	replace(&base.End, t.end)
	replace(&base.SrcTrack, t.srcTrack)
	return base
}

func replace[T any](dst *T, said *T) {
	if said != nil {
		*dst = *said
	}
}

// readTimeouts reads [timeouts].
func readTimeouts(s section) timeouts {
	return s.readLifetimes(func(t *timeouts) field {
		return field{key: "optimization", value: text(func(name string) error {
			preset, ok := conntrack.Optimization(name)
			if !ok {
				return fmt.Errorf("%s is not %s%s", shown(name), either(presets), DidYouMean(name, presets))
			}
			t.preset = &preset
			return nil
		})}
	})
}

var presets = []string{"normal", "high-latency", "satellite", "aggressive", "conservative"}

// readRuleTimeouts reads the timeouts of a rule.
func readRuleTimeouts(s section) timeouts {
	t := s.readLifetimes(func(*timeouts) field {
		return field{key: "optimization", value: func(any) error {
			return errors.New("belongs into [timeouts]; a rule sets its timeouts one by one")
		}}
	})
	switch {
	case t.start != nil && t.end != nil:
		checkScaling(s, conntrack.Scaling{Start: *t.start, End: *t.end})
	case t.start != nil:
		s.fail("adaptive.start", errors.New("a rule that scales by its own states needs adaptive.end as well"))
	case t.end != nil:
		s.fail("adaptive.end", errors.New("a rule that scales by its own states needs adaptive.start as well"))
	}
	return t
}

// checkScaling refuses lifetimes that would be nothing before they were shortened.
// Both ends 0 switch scaling off.
func checkScaling(s section, a conntrack.Scaling) {
	if a != (conntrack.Scaling{}) && a.Start >= a.End {
		s.fail("adaptive.start", fmt.Errorf("%d is not less than adaptive.end, %d; both 0 switch scaling off", a.Start, a.End))
	}
}

// defaultScaling is pf's, 60 and 120 percent of the limit, rounded as there: below
// ten states there is none.
func defaultScaling(states int) conntrack.Scaling {
	return conntrack.Scaling{Start: states / 10 * 6, End: states / 10 * 12}
}

func (s section) readLifetimes(optimization func(*timeouts) field) timeouts {
	var twice []string
	s.table, twice = s.table.flat()
	for _, key := range twice {
		s.fail(key, errors.New("is set twice, with quotes and without"))
	}
	t := timeouts{set: make(map[conntrack.Timeout]time.Duration)}
	s.read(append(lifetimeFields(s, &t), optimization(&t)))
	return t
}

func lifetimeFields(s section, t *timeouts) []field {
	fields := []field{
		{key: "adaptive.start", value: optional(&t.start, states)},
		{key: "adaptive.end", value: optional(&t.end, states)},
		{key: "src.track", value: optional(&t.srcTrack, durationOrZero)},
		{key: "tcp.tsdiff", value: func(v any) error {
			_, err := duration(v)
			s.warn("tcp.tsdiff", "has no effect: the ends of a connection judge its timestamps (RFC 7323)")
			return err
		}},
	}
	for c := range conntrack.Timeout(conntrack.TimeoutCount) {
		fields = append(fields, field{key: c.String(), value: func(v any) error {
			d, err := duration(v)
			t.set[c] = d
			return err
		}})
	}
	for _, key := range slices.Sorted(maps.Keys(foreignTimeouts)) {
		fields = append(fields, field{key: key, foreign: foreignTimeouts[key]})
	}
	return fields
}

// states reads a number of states.
func states(v any) (n int, err error) {
	err = number(&n, 0, math.MaxInt32)(v)
	return n, err
}

// optional remembers that there is a value.
func optional[T any](dst **T, read func(any) (T, error)) func(any) error {
	return func(v any) error {
		t, err := read(v)
		*dst = &t
		return err
	}
}

const tcpOnly = "nfqfw filters TCP only"

// foreignTimeouts are pf's other timeouts, and why there is nothing they could set.
var foreignTimeouts = map[string]string{
	"interval":       "a state expires when its time is over, without a sweep",
	"frag":           "the kernel puts fragments together (net.ipv4.ipfrag_time)",
	"udp.first":      tcpOnly,
	"udp.single":     tcpOnly,
	"udp.multiple":   tcpOnly,
	"icmp.first":     tcpOnly,
	"icmp.error":     tcpOnly,
	"other.first":    tcpOnly,
	"other.single":   tcpOnly,
	"other.multiple": tcpOnly,
}
