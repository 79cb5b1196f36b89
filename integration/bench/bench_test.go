package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nfqfw/integration"
)

// TestMain fails the run if a test leaves a namespace behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if left, err := integration.Leftovers(); err != nil || len(left) > 0 {
		os.Stderr.WriteString("left behind: " + strings.Join(left, " ") + "\n")
		code = 1
	}
	os.Exit(code)
}

// program builds nfqfw.
func program(t *testing.T) string {
	t.Helper()
	integration.Require(t, integration.Root, integration.Namespaces, integration.IPTables)
	for _, name := range needed {
		integration.Require(t, integration.Program(name))
	}
	path := filepath.Join(t.TempDir(), "nfqfw")
	build := exec.Command("go", "build", "-o", path, "nfqfw/cmd/nfqfw")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return path
}

// Every scenario runs, and what it finds is written.
func TestQuickRun(t *testing.T) {
	dir := t.TempDir()
	var out, failed bytes.Buffer
	args := []string{"-quick", "-nfqfw", program(t), "-out", dir, "-peers", "direct,synproxy-mss,nfqfw-synproxy"}
	if code := run(t.Context(), args, &out, &failed); code != integration.ExitDone {
		t.Fatalf("exit code %d: %s\n%s", code, &failed, &out)
	}
	var r results
	text, err := os.ReadFile(filepath.Join(dir, "results.json"))
	if err := errors.Join(err, json.Unmarshal(text, &r)); err != nil {
		t.Fatal(err)
	}
	for _, sc := range scenarios {
		for _, m := range sc.metrics {
			if !slices.ContainsFunc(r.Samples, func(k sample) bool { _, ok := k.Values[m.key]; return ok && k.Scenario == sc.key }) {
				t.Errorf("%s: no %s", sc.key, m.key)
			}
		}
	}
}

// Each peer does its work: it is there, and refuses what it has to.
func TestPeers(t *testing.T) {
	binary := program(t)
	for _, p := range peers {
		t.Run(p.key, func(t *testing.T) {
			if err := selfCheck(t.Context(), binary, p); err != nil {
				t.Error(err)
			}
		})
	}
}

// The check finds a peer that is not there.
func TestCheckFails(t *testing.T) {
	binary := program(t)
	for _, p := range peers[1:] {
		p.set = setNothing
		if p.key == "haproxy" || p.kind == ours { // refused before their processes are asked
			p.verify = verifyDirect
		}
		if err := selfCheck(t.Context(), binary, p); err == nil {
			t.Errorf("%s: not there, and no error", p.key)
		}
	}
}

// A run that is interrupted says so, and leaves nothing behind, which TestMain sees.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := &interrupter{cancel: cancel}
	var failed bytes.Buffer
	args := []string{"-quick", "-nfqfw", program(t), "-out", t.TempDir(), "-peers", "nfqfw-keep", "-only", "short"}
	if code := run(ctx, args, out, &failed); code != integration.ExitFailed || !strings.Contains(failed.String(), "interrupted") {
		t.Errorf("exit code %d: %s", code, &failed)
	}
}

// interrupter ends a run at its first line.
type interrupter struct{ cancel func() }

func (i *interrupter) Write(p []byte) (int, error) {
	i.cancel()
	return len(p), nil
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
	}{
		{"-help", integration.ExitDone},
		{"-only nonsense", integration.ExitMisuse},
		{"-peers nonsense", integration.ExitMisuse},
		{"-rounds -1", integration.ExitMisuse},
		{"-budget 0s", integration.ExitMisuse},
		{"more", integration.ExitMisuse},
		{"-nfqfw /nonexistent", integration.ExitFailed},
	} {
		if code := run(t.Context(), strings.Fields(c.args), io.Discard, io.Discard); code != c.code {
			t.Errorf("%s: exit code %d, want %d", c.args, code, c.code)
		}
	}
}

// What scenarios name is there.
func TestScenariosAreWellFormed(t *testing.T) {
	for _, sc := range scenarios {
		if sc.title == "" || sc.does == "" || sc.run == nil || len(sc.peers) == 0 || len(sc.metrics) == 0 {
			t.Errorf("%s: incomplete", sc.key)
		}
		for _, key := range sc.peers {
			if _, err := find(key); err != nil {
				t.Errorf("%s: %v", sc.key, err)
			}
		}
		for _, m := range sc.metrics {
			if m.over != "" && !slices.ContainsFunc(sc.metrics, func(o metric) bool { return o.key == m.over }) {
				t.Errorf("%s: %s is over %s, which is none", sc.key, m.key, m.over)
			}
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		series map[int]float64
		want   spread
	}{
		{nil, spread{}},
		{map[int]float64{1: 5}, spread{1, 5, 5, 5}},
		{map[int]float64{1: 5, 2: 1, 3: 9}, spread{3, 5, 1, 9}},
		{map[int]float64{1: 5, 3: 1, 4: 9, 5: 7}, spread{4, 6, 1, 9}},
	} {
		if got := spreadOf(c.series); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.series, got, c.want)
		}
	}
}

// A ratio is of the same round; what is missing in one of them is left out.
func TestRatios(t *testing.T) {
	got := ratios(map[int]float64{1: 8, 2: 9, 4: 1}, map[int]float64{1: 10, 2: 3, 3: 7, 4: 0})
	if len(got) != 2 || math.Abs(got[1]-0.8) > 1e-9 || got[2] != 3 {
		t.Errorf("%v", got)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.125: "0.12", 3: "3", 45.67: "45.7", 100: "100", 12345.6: "12,346", -1500.2: "-1,500", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// example is a result of three rounds.
func example() *results {
	b := &bench{options: options{scenarios: scenarios[:1], size: fullSize}, rounds: 3}
	for round := 1; round <= 3; round++ {
		for i, p := range peers {
			b.samples = append(b.samples, sample{round, "short", p.key, values{"rate": float64(1000*(i+1) + 10*round), "p99": float64(i + round), "cpu": float64(50 + 10*i)}})
		}
		b.samples.addOver(scenarios[0], round)
	}
	return newResults(b, machine{Processors: 2, Programs: []string{"one"}}, "none")
}

func TestMarkdown(t *testing.T) {
	text := example().markdown()
	for _, want := range []string{
		"| direct, no conntrack | 1,020 (1,010 – 1,030) | – | 2 (1 – 3) |",
		"| nfqfw synproxy | 6.88 | 3.48 |", // connections/s
		"| nfqfw keep | 5.00 | 3.33 |",     // p99
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "|") && strings.Count(line, "|") < 3 {
			t.Errorf("a row without cells: %s", line)
		}
	}
}

// The chart is XML with a bar for each peer in each panel, and none is outside.
func TestChart(t *testing.T) {
	text := example().chart()
	decoder, bars := xml.NewDecoder(strings.NewReader(text)), 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	if want := 3 * len(peers); bars != want {
		t.Errorf("%d bars, want %d", bars, want)
	}
	for _, v := range []float64{-1, 0, 1, 1e9} {
		p := panel{metric: metric{log: true}, spreads: []spread{{1, 2, 1, 3}}}
		p.scale()
		if x := p.x(v); math.IsNaN(x) || x < 0 || x > barWidth {
			t.Errorf("%v is at %v", v, x)
		}
	}
}
