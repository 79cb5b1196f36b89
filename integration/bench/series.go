package main

import "slices"

// A sample is what was found in one measurement.
type sample struct {
	Round    int    `json:"round"`
	Scenario string `json:"scenario"`
	Peer     string `json:"peer"`
	Values   values `json:"values"`
}

// samples are all of a run.
type samples []sample

// series returns what was found of a metric, by round.
func (s samples) series(scenario, peer, metric string) map[int]float64 {
	found := make(map[int]float64)
	for _, k := range s {
		if v, ok := k.Values[metric]; ok && k.Scenario == scenario && k.Peer == peer {
			found[k.Round] = v
		}
	}
	return found
}

// spread is what is told of a series.
type spread struct {
	n                int
	median, min, max float64
}

// spreadOf is that of all rounds.
func spreadOf(series map[int]float64) spread {
	list := make([]float64, 0, len(series))
	for _, v := range series {
		list = append(list, v)
	}
	if len(list) == 0 {
		return spread{}
	}
	slices.Sort(list)
	half := len(list) / 2
	median := list[half]
	if len(list)%2 == 0 {
		median = (list[half-1] + list[half]) / 2
	}
	return spread{len(list), median, list[0], list[len(list)-1]}
}

// ratios divides each number of a series by the other's of the same round: what else
// the machine does changes from round to round.
func ratios(series, other map[int]float64) map[int]float64 {
	found := make(map[int]float64)
	for round, v := range series {
		if w, ok := other[round]; ok && w != 0 {
			found[round] = v / w
		}
	}
	return found
}

// addOver fills in, for a round of a scenario, the metrics that are differences to the
// peer without a firewall.
func (s samples) addOver(sc scenario, round int) {
	for _, m := range sc.metrics {
		if m.over == "" {
			continue
		}
		base, ok := s.series(sc.key, peers[0].key, m.over)[round]
		if !ok {
			continue
		}
		for _, k := range s {
			if v, ok := k.Values[m.over]; ok && k.Round == round && k.Scenario == sc.key {
				k.Values[m.key] = v - base
			}
		}
	}
}
