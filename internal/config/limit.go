package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"nfqfw/rules"
)

// limitFields are the keys that say what a rule limits, what a source is, and what
// comes of one over its limit.
func limitFields(s section, r *rule) []field {
	return []field{
		{key: "max", value: number(&r.Max, 1, math.MaxUint32)},
		{key: "max_src_conn", value: number(&r.MaxSrcConn, 1, math.MaxUint32)},
		{key: "max_src_conn_rate", value: rate(&r.MaxSrcConnRate)},
		{key: "max_src_states", value: number(&r.MaxSrcStates, 1, math.MaxUint32)},
		{key: "max_src_nodes", value: number(&r.MaxSrcNodes, 1, math.MaxUint32)},
		{key: "source_track", value: word(&r.SourceTrack, rules.Words[rules.Track]())},
		{key: "source_prefix_v4", value: number(&r.SourcePrefixV4, 1, 32)},
		{key: "source_prefix_v6", value: number(&r.SourcePrefixV6, 1, 128)},
		{key: "count", value: word(&r.Count, rules.Words[rules.Count]())},
		{key: "overload", value: text(func(name string) error {
			r.Overload = name
			return s.tables.known(name)
		})},
		{key: "flush", value: flush(&r.Flush)},
	}
}

// flush reads what is flushed; that nothing is, is not to be said.
func flush(dst *rules.Flush) func(any) error {
	var i uint8
	read := word(&i, rules.Words[rules.Flush]()[rules.FlushRule:])
	return func(v any) error {
		err := read(v)
		*dst = rules.FlushRule + rules.Flush(i)
		return err
	}
}

// Bounds of a rate. An exact one remembers, for each source, so many moments.
const (
	maxRateCount  = 1_000_000
	minRateWindow = time.Millisecond
)

// rate reads "100/10s", or "100/10" as in pf.
func rate(dst *rules.Rate) func(any) error {
	return text(func(s string) error {
		count, window, ok := strings.Cut(s, "/")
		n, err := digits(count)
		if !ok || err != nil {
			return fmt.Errorf(`%s is not a rate (such as "100/10s": 100 connections in 10 seconds)`, shown(s))
		}
		if n < 1 || n > maxRateCount {
			return fmt.Errorf("%s: %s connections are out of range (1-%d)", shown(s), count, maxRateCount)
		}
		d, err := rateWindow(window)
		*dst = rules.Rate{Count: uint32(n), Window: d}
		if err != nil {
			return fmt.Errorf("%s: %w", shown(s), err)
		}
		return nil
	})
}

// digits reads a number without a sign.
func digits(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

func rateWindow(s string) (time.Duration, error) {
	var v any = s
	if n, err := digits(s); err == nil {
		v = n
	}
	d, err := duration(v)
	if err == nil && d < minRateWindow {
		return 0, fmt.Errorf("a window must be %s or more", minRateWindow)
	}
	return d, err
}

var sourceLimits = []string{"max_src_conn", "max_src_conn_rate", "max_src_states", "max_src_nodes"}

// checkLimits finds keys of a rule that mean nothing without another.
func checkLimits(s section) {
	if s.has("overload") && !s.has("max_src_conn", "max_src_conn_rate") {
		s.fail("overload", errors.New("nothing puts a source into the table; set max_src_conn or max_src_conn_rate, or remove the key"))
	}
	if s.has("flush") && !s.has("overload") {
		s.fail("flush", errors.New("goes with overload; name the table there, or remove the key"))
	}
	if s.has("count") && !s.has("max_src_conn") {
		s.warn("count", "has no effect without max_src_conn")
	}
	for _, key := range []string{"source_track", "source_prefix_v4", "source_prefix_v6"} {
		if s.has(key) && !s.has(sourceLimits...) {
			s.warn(key, "has no effect without one of "+strings.Join(sourceLimits, ", "))
		}
	}
}

// warnUnreached finds limits of a rule that another one always meets first.
func warnUnreached(r *rule, l Limits) {
	ofRule := r.SourceTrack == rules.TrackRule // else states of other rules count for a source
	for _, w := range []struct {
		key   string
		limit uint32
		first string
		at    int64
		holds bool
	}{
		{"max", r.Max, "limits.states", int64(l.States), true},
		{"max_src_nodes", r.MaxSrcNodes, "limits.src_nodes", int64(l.SrcNodes), true},
		{"max_src_states", r.MaxSrcStates, "max", int64(r.Max), ofRule},
		{"max_src_conn", r.MaxSrcConn, "max_src_states", int64(r.MaxSrcStates), true},
		{"max_src_conn", r.MaxSrcConn, "max", int64(r.Max), ofRule},
	} {
		if w.holds && w.at > 0 && int64(w.limit) > w.at {
			r.at.warn(w.key, fmt.Sprintf("%d is never reached: %s is %d", w.limit, w.first, w.at))
		}
	}
}

// warnUnused finds tables that sources are put into and that no rule names.
func warnUnused(list []rule) {
	named := make(map[string]bool)
	for _, r := range list {
		for _, ref := range slices.Concat(r.From.Tables, r.To.Tables) {
			named[ref.Name] = true
		}
	}
	for _, r := range list {
		if r.Overload != "" && !named[r.Overload] {
			r.at.warn("overload", fmt.Sprintf("no rule names <%s>: it blocks nobody", r.Overload))
		}
	}
}
