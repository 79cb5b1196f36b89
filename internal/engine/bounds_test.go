package engine

import (
	"fmt"
	"time"

	"nfqfw/conntrack"
	"nfqfw/rules"
)

// bounded names what a limit bounds: of a rule, of a source, or, if neither is said,
// of all rules that track globally.
type bounded struct {
	limit  string
	rule   string
	source conntrack.SourceKey
}

// bound is how much there is of it, and how much there may be; 0: any number.
type bound struct {
	count int
	limit uint32
}

type bounds map[bounded]bound

// boundsOf are all limits of an engine's rules, as they are at one time.
func boundsOf(e *Engine, now time.Duration) bounds {
	b := bounds{bounded{limit: "states"}: {e.table.Len(), uint32(e.table.Limit())}}
	set := e.rules.Load()
	for _, x := range set.byID {
		if x != nil {
			l := loosest([]*entry{x})
			b[bounded{limit: "max", rule: x.Name}] = bound{int(x.admitted.Load()), l.Max}
			b[bounded{limit: "max_src_nodes", rule: x.Name}] = bound{x.nodes.Len(), l.MaxSrcNodes}
		}
	}
	all := loosest(set.global())
	b[bounded{limit: "max_src_nodes"}] = bound{e.nodes.Len(), all.MaxSrcNodes}
	_ = e.Sources(now, func(s *ListedSource) error {
		l := all
		if s.Key.Rule > 0 {
			l = loosest([]*entry{set.byID[s.Key.Rule-1]})
		} else {
			l.MaxSrcConnRate.Count = 0 // each rule has a window of its own
		}
		b[bounded{limit: "max_src_conn", source: s.Key}] = bound{s.Conns, l.MaxSrcConn}
		b[bounded{limit: "max_src_states", source: s.Key}] = bound{s.States, l.MaxSrcStates}
		b[bounded{limit: "max_src_conn_rate", source: s.Key}] = bound{s.Recent, l.MaxSrcConnRate.Count}
		return nil
	})
	return b
}

// grownSince holds that what is more than it was before is within its limit. What is
// not may be above: the limit may have been lowered.
func (b bounds) grownSince(before bounds) error {
	for k, is := range b {
		if was := before[k].count; is.limit > 0 && is.count > was && is.count > int(is.limit) {
			return fmt.Errorf("%+v: %d, were %d, limit %d", k, is.count, was, is.limit)
		}
	}
	return nil
}

// global are the rules that track globally.
func (s *ruleset) global() (list []*entry) {
	for _, x := range s.byID {
		if x != nil && x.SourceTrack == rules.TrackGlobal {
			list = append(list, x)
		}
	}
	return list
}

// loosest are limits that hold whichever of the rules admits. A rule that only counts
// has none.
func loosest(of []*entry) rules.Rule {
	var l rules.Rule
	for i, x := range of {
		r := *x.Rule
		if r.CountOnly {
			return rules.Rule{}
		}
		if i == 0 {
			l = r
			continue
		}
		l.MaxSrcConn, l.MaxSrcStates = looser(l.MaxSrcConn, r.MaxSrcConn), looser(l.MaxSrcStates, r.MaxSrcStates)
		l.MaxSrcNodes = looser(l.MaxSrcNodes, r.MaxSrcNodes)
	}
	return l
}

// looser is the higher of two limits, of which 0 is none.
func looser(a, b uint32) uint32 {
	if min(a, b) == 0 {
		return 0
	}
	return max(a, b)
}
