package main

import (
	"fmt"
	"strings"
)

// markdown is the table of the results, and how they came about.
func (r *results) markdown() string {
	var b strings.Builder
	b.WriteString("# What nfqfw costs\n\n")
	r.writeOrigin(&b)
	b.WriteString("![Charts of the tables below](results.svg)\n")
	for _, sc := range r.scenarios {
		if list := r.shown(sc); len(list) > 0 {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", sc.title, sc.does)
			r.writeTable(&b, sc, list)
			r.writeRatios(&b, sc, list)
		}
	}
	if len(r.Failures) > 0 {
		b.WriteString("\n## Measurements that failed\n\n")
		for _, f := range r.Failures {
			line, _, _ := strings.Cut(f, "\n")
			fmt.Fprintf(&b, "- %s\n", line)
		}
	}
	return b.String()
}

// writeOrigin says when, on what and how it was measured.
func (r *results) writeOrigin(b *strings.Builder) {
	if r.Quick {
		b.WriteString("**A short run, to see that all works: nothing to compare by.**\n\n")
	}
	m := r.Machine
	fmt.Fprintf(b, "Measured %s, commit %s, %s, on %d processors (%s), %s, %s; %s; %s.\n\n",
		r.Date, r.Commit, plural(r.Rounds, "round"), m.Processors, m.Model, m.Memory, m.Kernel, strings.Join(m.Programs, "; "), m.Go)
	b.WriteString("`make bench`, as root, repeats it; `make bench BENCH=\"-only short,bulk -rounds 9\"` a part of it, and `bin/bench -help` tells the rest. " +
		"Client, gateway and server are network namespaces of one machine and share its processors: read the numbers as ratios. " +
		"Each measurement has a lab of its own, and within a round all peers have the same load one after the other. " +
		"Numbers are the median of the rounds (minimum – maximum); a ratio is the median of the rounds' ratios. " +
		"Every peer that counts has a limit of 1,000 connections a source, which no load reaches. " +
		"The raw numbers are in [results.json](results.json).\n\n")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// writeTable writes a row for each peer.
func (r *results) writeTable(b *strings.Builder, sc scenario, list []peer) {
	b.WriteString("| |")
	for _, m := range sc.metrics {
		fmt.Fprintf(b, " %s |", m.title)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(sc.metrics)) + "\n")
	for _, p := range list {
		fmt.Fprintf(b, "| %s |", p.name)
		for _, m := range sc.metrics {
			fmt.Fprintf(b, " %s |", r.spread(sc, p, m))
		}
		b.WriteString("\n")
	}
}

// String writes a spread into a cell.
func (s spread) String() string {
	switch {
	case s.n == 0:
		return "–"
	case s.min == s.max:
		return number(s.median)
	}
	return fmt.Sprintf("%s (%s – %s)", number(s.median), number(s.min), number(s.max))
}

// writeRatios writes the ratios of the firewall to every other peer.
func (r *results) writeRatios(b *strings.Builder, sc scenario, list []peer) {
	for _, m := range sc.metrics {
		if !m.ratio {
			continue
		}
		better := "more is better"
		if m.less {
			better = "less is better"
		}
		var own, others []peer
		for _, p := range list {
			if p.kind == ours {
				own = append(own, p)
			} else {
				others = append(others, p)
			}
		}
		if len(own) == 0 || len(others) == 0 {
			return
		}
		fmt.Fprintf(b, "\n%s, ratio to (%s):\n\n| |", strings.ToUpper(m.title[:1])+m.title[1:], better)
		for _, p := range others {
			fmt.Fprintf(b, " %s |", p.name)
		}
		b.WriteString("\n|---|" + strings.Repeat("---:|", len(others)) + "\n")
		for _, p := range own {
			fmt.Fprintf(b, "| %s |", p.name)
			for _, o := range others {
				fmt.Fprintf(b, " %s |", r.ratio(sc, m, p, o))
			}
			b.WriteString("\n")
		}
	}
}

// ratio is that of two peers in a metric.
func (r *results) ratio(sc scenario, m metric, p, to peer) string {
	s := spreadOf(ratios(r.Samples.series(sc.key, p.key, m.key), r.Samples.series(sc.key, to.key, m.key)))
	if s.n == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", s.median)
}
