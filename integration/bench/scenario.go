package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// values are what one measurement has found, by metric.
type values map[string]float64

// A metric is a number that a scenario finds.
type metric struct {
	key   string // in the raw numbers
	title string // with its unit
	less  bool   // the smaller the better
	ratio bool   // compared with each peer
	chart bool
	log   bool   // drawn on a logarithmic scale
	over  string // not measured, but how much more another metric is than without a firewall
}

// A scenario is a load that is put onto each of some peers.
type scenario struct {
	key     string
	title   string
	does    string
	peers   []string
	metrics []metric
	run     func(ctx context.Context, st *stage) (values, error)
}

// size is how much of everything there is.
type size struct {
	connections int           // of the short load
	shortTime   time.Duration // bounds it
	transfer    string        // octets of a bulk transfer, as iperf3 reads it
	flatOut     time.Duration // of the flood without a rate
	flood       time.Duration // of honest connections under a flood
	held        int           // connections at a time
	quiet       time.Duration // how long to wait until the machine has nothing else to do
}

var (
	fullSize = size{
		connections: 15_000, shortTime: 5 * time.Second, transfer: "1G", flatOut: 1500 * time.Millisecond,
		flood: 2500 * time.Millisecond, held: 4000, quiet: 3 * time.Second,
	}
	quickSize = size{
		connections: 4000, shortTime: 3 * time.Second, transfer: "200M", flatOut: 1500 * time.Millisecond,
		flood: time.Second, held: 1000, quiet: 400 * time.Millisecond,
	}
)

// The peers of scenarios.
var (
	everybody = []string{
		"direct", "conntrack", "synproxy-mss", "synproxy-all", "ctcount", "haproxy",
		"nfqfw-synproxy", "nfqfw-keep", "nfqfw-adaptive",
	}
	shortPeers = append(slices.Clone(everybody), "nfqfw-cookies")
	answerers  = []string{"direct", "synproxy-mss", "synproxy-all", "nfqfw-synproxy", "nfqfw-cookies", "nfqfw-adaptive"}
	sufferers  = []string{"direct", "conntrack", "synproxy-mss", "nfqfw-synproxy", "nfqfw-adaptive"}
	ackPeers   = []string{"direct", "conntrack", "synproxy-mss", "nfqfw-synproxy", "nfqfw-cookies", "nfqfw-adaptive"}
	honestWord = fmt.Sprintf("%d honest clients at one address pause for %v on average and connect", honestWorkers, honestPause)
)

// scenarios are all, in the order in which they are measured.
var scenarios = []scenario{
	{
		key: "short", title: "Short connections",
		does: fmt.Sprintf("HTTP over one connection for each request, %d at a time, each from a port that was not used before; the server closes. "+
			"Processor time is the machine's, client and server included, less what it uses when idle; and the daemon's alone.", shortWorkers),
		peers: shortPeers,
		metrics: []metric{
			{key: "rate", title: "connections/s", ratio: true, chart: true},
			{key: "p50", title: "p50, ms", less: true},
			{key: "p99", title: "p99, ms", less: true, ratio: true, chart: true, log: true},
			{key: "stalls", title: "stalls over 0.5 s", less: true},
			{key: "failed", title: "failed", less: true},
			{key: "cpu", title: "processor time of a connection, µs", less: true, ratio: true, chart: true},
			{key: "cpu-over", title: "processor time more than direct, µs", less: true, over: "cpu"},
			{key: "daemon", title: "processor time of the daemon, µs", less: true},
		},
		run: runShort,
	},
	{
		key: "bulk", title: "Bulk data",
		does:  "One connection that transfers data with iperf3, first to the server (up), then to the client (down).",
		peers: everybody,
		metrics: []metric{
			{key: "up", title: "up, Gbit/s", ratio: true, chart: true},
			{key: "down", title: "down, Gbit/s", ratio: true, chart: true},
		},
		run: runBulk,
	},
	{
		key: "answers", title: "SYNs answered, sender flat out",
		does: "SYNs from 32,768 sources that do not exist, as fast as one sender can. What answers is the peer, or, behind direct, " +
			"the server with its own SYN cookies. nfqfw has to have turned its cookies on. " +
			"Over 100 % are answers that were sent again.",
		peers: answerers,
		metrics: []metric{
			{key: "answered", title: "answered/s", ratio: true, chart: true},
			{key: "sent", title: "sent/s"},
			{key: "share", title: "answered, %"},
		},
		run: runAnswers,
	},
	floodScenario("syn50", "A flood of 50,000 SYN/s", sufferers, floodOf(synFlood, 50_000)),
	floodScenario("syn100", "A flood of 100,000 SYN/s", sufferers, floodOf(synFlood, 100_000)),
	floodScenario("syn200", "A flood of 200,000 SYN/s", sufferers, floodOf(synFlood, 200_000)),
	floodScenario("ack100", "A flood of 100,000 ACK/s that repeat no cookie", ackPeers, floodOf(ackFlood, 100_000)),
	{
		key: "memory", title: "Memory",
		does: "Connections that are held open, from 14 sources. The kernel's memory is the growth of the objects that connections are made of (slabinfo), " +
			"sockets at both ends included; the daemon's is the growth of what is resident.",
		peers: everybody,
		metrics: []metric{
			{key: "resident", title: "daemon before, MB", less: true},
			{key: "held", title: "connections"},
			{key: "user", title: "daemon, octets a connection", less: true, chart: true},
			{key: "kernel", title: "kernel, octets a connection", less: true},
			{key: "kernel-over", title: "kernel, octets more than direct", less: true, over: "kernel", chart: true},
		},
		run: runMemory,
	},
}

// floodScenario has honest clients beside a flood.
func floodScenario(key, title string, peers []string, run func(context.Context, *stage) (values, error)) scenario {
	return scenario{
		key: key, title: title, peers: peers, run: run,
		does: honestWord + ", beside a flood from sources that do not exist. A connection that fails counts as one of 3 s. " +
			"The sender, who shares the processors, may not come to its rate.",
		metrics: []metric{
			{key: "served", title: "honest connections served, %", chart: true},
			{key: "tried", title: "tried"},
			{key: "p50", title: "p50, ms", less: true},
			{key: "p99", title: "p99, ms", less: true, ratio: true, chart: true, log: true},
			{key: "rate", title: "flood sent, packets/s"},
			{key: "lost", title: "lost by nfqfw's queue", less: true},
		},
	}
}

// find returns a peer by its key.
func find(key string) (peer, error) {
	for _, p := range peers {
		if p.key == key {
			return p, nil
		}
	}
	return peer{}, fmt.Errorf("no peer %q", key)
}
