// Package config reads the configuration file, written in TOML.
//
// Parse takes the bytes of the file and gives a Config, or every error the
// file has, one a line, in the order of the file as far as that is known. An
// error names its place: `rule 3 ("web"): port: 70000 is not a port
// (1-65535)`.
//
// Nothing in a file is ignored. The package refuses a key it does not know,
// a key of pf's that could set nothing here, and keys that mean nothing together:
// who wrote a limit must not believe in it when there is none. What is allowed and
// has no effect is a warning. The package also refuses a file that would mean
// different things on different machines: it opens no file, looks up no host
// name, and knows the names of services by itself.
package config

import (
	"errors"

	"nfqfw/conntrack"
	"nfqfw/rules"
	"nfqfw/synproxy"
)

// Config is what a file says, with defaults where it says nothing.
type Config struct {
	Daemon   Daemon
	Timeouts conntrack.Lifetimes
	Limits   Limits
	Cookies  Syncookies
	Tables   []Table
	Rules    []rules.Rule

	// RuleTimeouts has an element for each of Rules: Timeouts, with what the rule
	// says of its own.
	RuleTimeouts []conntrack.Lifetimes

	// Warnings are about what the file says without effect, one a line, each with
	// its place.
	Warnings []string
}

// Daemon is how the daemon runs.
type Daemon struct {
	Control      string // path of the control socket, absolute, at most MaxSocketPath octets
	ControlGroup string // the group that may use it; empty: only the daemon's own user
	Queues       int    // number of kernel queues, at most MaxQueues; 0: one per CPU
	WhenDown     WhenDown
	BPF          BPF
}

// DefaultSocket is where the daemon listens unless told otherwise.
const DefaultSocket = "/run/nfqfw/control.sock"

// MaxSocketPath is how many octets the kernel takes as the name of a socket:
// what sockaddr_un has room for, less the NUL that ends it (unix(7)).
const MaxSocketPath = 107

// MaxQueues is the largest number of queues a file can ask for.
const MaxQueues = 64

// WhenDown is what happens to new connections while no daemon listens.
type WhenDown uint8

// What can happen to them.
const (
	Closed WhenDown = iota // they are dropped
	Open                   // they pass, unfiltered
)

var whenDownWords = []string{"closed", "open"}

// String is the configuration's word.
func (w WhenDown) String() string {
	if int(w) < len(whenDownWords) {
		return whenDownWords[w]
	}
	return "unknown"
}

// BPF is whether the kernel may let pass by itself what no limit would refuse.
type BPF uint8

// When it may.
const (
	BPFAuto  BPF = iota // where the kernel and the daemon's privileges allow it
	BPFNever            // each SYN waits for user space
)

var bpfWords = []string{"auto", "never"}

// String is the configuration's word.
func (b BPF) String() string {
	if int(b) < len(bpfWords) {
		return bpfWords[b]
	}
	return "unknown"
}

// Limits bound the tables, as pf's "set limit" does.
type Limits struct {
	States       int
	SrcNodes     int
	TableEntries int // of all tables together
}

// Syncookies is when the SYN proxy keeps no state before a client has proved
// itself, and when an adaptive rule proxies: from Start on, until under End. Both
// are shares of how many connections may be half-open, from 0 to 1.
type Syncookies struct {
	Mode       synproxy.CookieMode
	Start, End float64
}

// Default is the configuration of an empty file. The limits and marks are pf's, but
// not the mode: pf never sends cookies unless told to.
func Default() *Config {
	limits := Limits{States: 100_000, SrcNodes: 10_000, TableEntries: 200_000}
	return &Config{
		Daemon:   Daemon{Control: DefaultSocket, Queues: 0, WhenDown: Closed},
		Timeouts: conntrack.Lifetimes{Timeouts: conntrack.DefaultTimeouts(), Scaling: defaultScaling(limits.States)},
		Limits:   limits,
		Cookies:  Syncookies{Mode: synproxy.CookiesAdaptive, Start: 0.25, End: 0.12},
	}
}

// Parse reads a file. It gives a Config or an error, never both.
func Parse(data []byte) (*Config, error) {
	root, err := decode(data)
	if err != nil {
		return nil, err
	}
	var errs []error
	var warnings []string
	c := readFile(section{table: root, tables: namesOfTables(root), errs: &errs, warnings: &warnings})
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	c.Warnings = warnings
	return c, nil
}

// readFile reads the file's own table, whose keys are the sections.
func readFile(s section) *Config {
	c := Default()
	var global timeouts
	var list []rule
	s.read([]field{
		{key: "daemon", sub: func(s section) { readDaemon(s, &c.Daemon) }},
		{key: "timeouts", sub: func(s section) { global = readTimeouts(s) }},
		{key: "limits", sub: func(s section) { readLimits(s, &c.Limits) }},
		{key: "syncookies", sub: func(s section) { readSyncookies(s, &c.Cookies) }},
		{key: "table", sub: func(s section) { c.Tables = readTables(s) }},
		{key: "rule", each: func(s []section) { list = readRules(s) }},
	})
	c.Timeouts.Scaling = defaultScaling(c.Limits.States)
	c.Timeouts = global.over(c.Timeouts)
	checkScaling(s.inner("timeouts", table{}), c.Timeouts.Scaling)
	c.Rules, c.RuleTimeouts = part(list, c.Timeouts)
	for i := range list {
		warnUnreached(&list[i], c.Limits)
	}
	warnUnused(list)
	return c
}

// part parts the rules from their timeouts.
func part(list []rule, global conntrack.Lifetimes) ([]rules.Rule, []conntrack.Lifetimes) {
	plain := make([]rules.Rule, len(list))
	lifetimes := make([]conntrack.Lifetimes, len(list))
	for i, r := range list {
		plain[i] = r.Rule
		lifetimes[i] = r.timeouts.over(global)
		lifetimes[i].OwnScaling = r.timeouts.start != nil
		lifetimes[i].SrcTrack = max(lifetimes[i].SrcTrack, r.MaxSrcConnRate.Window)
	}
	return plain, lifetimes
}
