package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// results are what a run has found; as JSON, the raw numbers.
type results struct {
	Date     string   `json:"date"`
	Commit   string   `json:"commit"`
	Quick    bool     `json:"quick"`
	Rounds   int      `json:"rounds"`
	Machine  machine  `json:"machine"`
	Samples  samples  `json:"samples"`
	Failures []string `json:"failures,omitempty"`

	size      size
	scenarios []scenario
}

func newResults(b *bench, m machine, commit string) *results {
	return &results{
		Date: time.Now().UTC().Format("2006-01-02 15:04 MST"), Commit: commit, Quick: b.quick, Rounds: b.rounds,
		Machine: m, Samples: b.samples, Failures: b.failures, size: b.size, scenarios: b.scenarios,
	}
}

// write puts table, chart and numbers into a directory.
func write(dir string, r *results) error {
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	for name, text := range map[string]string{
		"results.json": string(raw) + "\n", "results.md": r.markdown(), "results.svg": r.chart(),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	return nil
}

// shown lists the peers of a scenario of which something was found.
func (r *results) shown(sc scenario) []peer {
	var list []peer
	for _, p := range peers {
		for _, k := range r.Samples {
			if k.Scenario == sc.key && k.Peer == p.key {
				list = append(list, p)
				break
			}
		}
	}
	return list
}

// spread is that of a metric of a peer.
func (r *results) spread(sc scenario, p peer, m metric) spread {
	return spreadOf(r.Samples.series(sc.key, p.key, m.key))
}

// number writes a number with three digits that count.
func number(v float64) string {
	switch abs := max(v, -v); {
	case abs >= 100:
		return grouped(int64(math.Round(v)))
	case abs >= 10 || v == float64(int64(v)):
		return fmt.Sprintf("%.3g", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// grouped writes thousands apart.
func grouped(n int64) string {
	if n < 0 {
		return "-" + grouped(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
