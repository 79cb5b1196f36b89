package daemon

import (
	"context"
	"time"

	"nfqfw/internal/hooks"
	"nfqfw/internal/offload"
)

const (
	watchInterval   = 250 * time.Millisecond // between looks at the number of changes: one message to the kernel
	compareInterval = 5 * time.Second        // between looks at what is not in that number, which start programs
	compareRest     = time.Second            // at least, between two looks at the hooks
	repairRestMost  = time.Minute            // after repairs in a row
)

// A repairer puts back what others have taken out of the kernel: hooks, sets and
// settings. It belongs to one goroutine.
type repairer struct {
	*daemon
	generation *hooks.Generation // nil: the kernel has none
	counted    bool              // it tells of all changes of the hooks
	full       bool              // the kernel's conntrack table was, when last looked at
	liberal    bool              // and its setting of that name was on

	suspected bool          // something has changed that was not looked at
	compared  time.Duration // when the hooks were looked at
	audited   time.Duration // and when the rest was
	repaired  time.Duration // when the hooks were put back; 0: never
	rest      time.Duration // until they are looked at again
}

// newRepairer is for hooks that are in.
func (d *daemon) newRepairer(ctx context.Context) *repairer {
	r := &repairer{daemon: d, rest: compareRest, suspected: true}
	g, err := hooks.OpenGeneration()
	if err != nil {
		d.log.Debug("changes of the hooks are looked for in their text only", "err", err)
		return r
	}
	r.generation, r.counted = g, hooks.Counted(ctx)
	return r
}

func (r *repairer) close() {
	if r.generation != nil {
		_ = r.generation.Close()
	}
}

// look looks for damage where there may be some.
func (r *repairer) look(ctx context.Context) {
	if r.handedOver.Load() {
		return
	}
	now := r.now()
	r.suspected = r.suspected || r.changed()
	if r.suspected && now >= r.compared+r.rest || !r.counted && now >= r.compared+max(r.rest, compareInterval) {
		r.suspected, r.compared = false, now
		r.repairHooks(ctx)
	}
	if r.copies.missed.Swap(false) {
		r.change(r.ask)
	}
	if now >= r.audited+compareInterval {
		r.audited = now
		r.repairSets(ctx)
		r.repairSettings()
		r.tellLosses()
		r.tellFull()
		r.tellLiberal()
	}
}

// ask asks the kernel for closings that were not seen.
func (r *repairer) ask() {
	if err := r.catchUp(); err != nil {
		r.copies.missed.Store(true)
		r.failures.Do(func() {
			r.log.Warn("closings were not seen, and the kernel does not tell of them; trying on", "err", err)
		})
	}
}

// changed says whether somebody has changed something that may be a hook.
func (r *repairer) changed() bool {
	if r.generation == nil {
		return false
	}
	changed, err := r.generation.Changed()
	if err != nil {
		r.failures.Do(func() { r.log.Warn("changes of the hooks are not noticed at once", "err", err) })
		return true
	}
	return changed
}

// repairHooks puts the hooks back if they are not as they were put in. Who takes them
// out again and again has them out for longer each time.
func (r *repairer) repairHooks(ctx context.Context) {
	began := time.Now()
	damaged, err := r.rehookDamaged(ctx)
	switch now := r.now(); {
	case ctx.Err() != nil:
	case err != nil:
		r.suspected, r.rest = true, min(2*r.rest, repairRestMost)
		r.failures.Do(func() { r.log.Error("hooks are damaged and cannot be put back; trying on", "err", err) })
	case damaged:
		r.rest = compareRest
		if r.repaired > 0 && now < r.repaired+2*repairRestMost {
			r.rest = min(2*max(now-r.repaired, compareRest), repairRestMost)
		}
		r.repaired, r.suspected = now, true
		r.log.Warn("hooks were removed by somebody; put back", "took", time.Since(began).Round(time.Millisecond), "next_look", r.rest.Round(time.Second))
	}
}

// rehookDamaged puts the hooks back, and the sets they refer to, and says whether
// something was missing. What came in by the gap counts like what was there before.
func (d *daemon) rehookDamaged(ctx context.Context) (damaged bool, err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.handedOver.Load() {
		return false, nil
	}
	intact, err := d.hooks.Intact(ctx)
	if err != nil || intact {
		return false, err
	}
	if _, err := d.mirror.Repair(ctx); err != nil {
		return true, err
	}
	if err := d.install(ctx, d.hooks); err != nil {
		return true, err
	}
	d.copies.missed.Store(true)
	return true, d.adopt()
}

// repairSets puts back the sets that hooks refer to, and what was in them.
func (d *daemon) repairSets(ctx context.Context) {
	tables, err := d.mirror.Repair(ctx)
	if err != nil && ctx.Err() == nil {
		d.failures.Do(func() { d.log.Warn("the kernel's sets are not looked at", "err", err) })
	}
	if len(tables) > 0 {
		d.log.Warn("entries of sets were removed by somebody; put back", "tables", tables)
	}
}

// repairSettings has the kernel go on to count, and to note when connections begin.
func (d *daemon) repairSettings() {
	for _, s := range []offload.Setting{offload.Accounting, offload.Timestamps} {
		switch was, err := s.Set(true); {
		case err != nil:
			d.failures.Do(func() { d.log.Warn("a setting of the kernel is not looked at", "err", err) })
		case !was:
			d.log.Warn("a setting was changed by somebody; changed back", "setting", string(s))
		}
	}
}

// tellLiberal tells when somebody has the kernel look at no window. It is another's
// setting, and stays.
func (r *repairer) tellLiberal() {
	on, err := offload.Liberal.On()
	if err != nil || on == r.liberal {
		return
	}
	r.liberal = on
	if on {
		r.log.Warn("the kernel looks at no window of a connection, and who guesses may end it; turn the setting off", "setting", string(offload.Liberal))
	}
}
