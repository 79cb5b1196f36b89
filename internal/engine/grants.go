package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// grants are what the kernel may let pass without asking. Its lock is waited for under any
// other but a source's own, which alone is taken under it.
type grants struct {
	mu      sync.Mutex
	table   *grant.Table
	given   []given                // of each slot
	late    map[packet.Grant]given // what was taken back, and had been used before that was told
	until   []time.Duration        // before that nothing is given in a slot
	since   time.Duration          // when all was last taken back
	off     bool                   // no kernel asks
	count   atomic.Int64           // of what is given
	dropped []*conntrack.Source    // that are not held for a grant any more, for dropSources
	drops   atomic.Bool            // there are some
	sweep   int                    // the slot that Tick looks at next
}

// given is what one grant is made of: places that are reserved in the rule and in the
// client's source.
type given struct {
	rule   *account
	source *conntrack.Source // held for it; nil: the rule has no limits for sources
	places int               // reserved, for what is left and for what was used but not yet told
	used   bool              // since Tick has last looked
}

func newGrants(t *grant.Table) *grants {
	g := &grants{
		table: t, given: make([]given, grant.Slots), until: make([]time.Duration, grant.Slots), late: make(map[packet.Grant]given),
	}
	for i := range g.given {
		t.Take(i) // the memory may have some from before
	}
	return g
}

// SetGrants has the engine grant connections in memory that the kernel reads. It is to be
// called before there is a packet.
func (e *Engine) SetGrants(t *grant.Table) { e.grants = newGrants(t) }

// Granting says whether there is a kernel that asks what is granted: at first there is.
func (e *Engine) Granting(now time.Duration, on bool) {
	if e.grants == nil {
		return
	}
	e.grants.mu.Lock()
	e.grants.off = !on
	e.grants.mu.Unlock()
	e.Withdraw(now)
}

// Grants says whether something is granted now.
func (e *Engine) Grants() bool { return e.grants != nil && e.grants.count.Load() > 0 }

// Withdraw takes back what the kernel may let pass, or answer, without asking. It is to be called
// after what decides about a SYN has changed: the rules, a table, or what interfaces
// there are.
func (e *Engine) Withdraw(now time.Duration) {
	e.stopAnswers(now)
	g := e.grants
	if g == nil {
		return
	}
	g.mu.Lock()
	g.takeAll(now)
	g.mu.Unlock()
	e.dropSources(now)
}

// dropSources lets go of sources, which is done with no lock held.
func (e *Engine) dropSources(now time.Duration) {
	g := e.grants
	g.mu.Lock()
	list := g.dropped
	g.dropped = nil
	g.drops.Store(false)
	g.mu.Unlock()
	for _, s := range list {
		e.table.Drop(s, now)
	}
}

// takeAll takes back everything.
func (g *grants) takeAll(now time.Duration) {
	g.since = now
	if g.count.Load() > 0 {
		g.takeIf(func(*given) bool { return true }, 0)
	}
}

// takeIf takes back those for which is says true, as deny does.
func (g *grants) takeIf(is func(*given) bool, until time.Duration) {
	for i := range g.given {
		if x := &g.given[i]; x.rule != nil && is(x) {
			g.deny(i, until)
		}
	}
}

// deny takes back what is given in a slot, if anything is, and has nothing given there
// before until.
func (g *grants) deny(i int, until time.Duration) {
	g.until[i] = max(g.until[i], until)
	if g.given[i].rule != nil {
		g.take(i)
	}
}

// take takes a grant back. What has been used of it is told of yet.
func (g *grants) take(i int) {
	x, name := g.given[i], g.table.Name(i)
	g.given[i] = given{}
	g.count.Add(-1)
	x.unreserve(g.table.Take(i))
	if x.places > 0 {
		g.late[name] = x
	} else {
		g.drop(x.source)
	}
}

func (g *grants) drop(s *conntrack.Source) {
	if s != nil {
		g.dropped = append(g.dropped, s)
		g.drops.Store(true)
	}
}

// unreserve gives n places back.
func (x *given) unreserve(n int) {
	x.places -= n
	x.rule.unreserve(n)
	if x.source != nil {
		x.source.Unreserve(n)
	}
}

func (a *account) unreserve(n int) {
	a.reserved.Add(-int64(n))
	a.admitted.Add(-int64(n))
}

// sweepGrants takes back those that nobody has used for a while.
func (e *Engine) sweepGrants(now time.Duration) {
	g := e.grants
	if !e.Grants() {
		return
	}
	g.mu.Lock()
	for range grant.Slots / sweepParts {
		i := g.sweep
		g.sweep = (i + 1) % grant.Slots
		switch x := &g.given[i]; {
		case x.rule == nil:
		case x.used:
			x.used = false
		default:
			g.take(i)
		}
	}
	g.mu.Unlock()
	e.dropSources(now)
}

// redeem is what the kernel tells that it has admitted a connection by: one of the places
// is the caller's now.
func (g *grants) redeem(by packet.Grant) (rule *account, source *conntrack.Source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x, late := g.late[by]
	switch {
	case late:
		if x.places--; x.places > 0 {
			g.late[by] = x
		} else {
			delete(g.late, by)
			g.drop(x.source)
		}
		return x.rule, x.source
	case g.table.Name(int(by.Slot)) != by || g.given[by.Slot].places == 0:
		return nil, nil // of another engine, from before this one
	}
	had := &g.given[by.Slot]
	had.places--
	had.used = true
	return had.rule, had.source
}
