package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/hooks"
	"nfqfw/rules"
)

// finishInterval is how often it is looked whether the rules that have vanished still
// have states; and how long after a reload that is not done, as clients may yet answer
// cookies of theirs.
const finishInterval = 5 * time.Second

// answerReload answers "nfqfw reload".
func (d *daemon) answerReload(ctx context.Context, _ json.RawMessage, send func(any) error) error {
	c, err := d.reload(ctx)
	if err != nil {
		return err
	}
	return send(&control.Reloaded{Rules: len(c.Rules), Warnings: c.Warnings})
}

// reload takes the configuration in force that the file has now, or none of it.
// States, counts and rates live on.
func (d *daemon) reload(ctx context.Context) (*config.Config, error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	d.tellReloading()
	defer d.tellReady()
	c, err := d.load()
	if err != nil {
		return nil, err
	}
	old := d.config.Load()
	if err := needsRestart(old, c); err != nil {
		return nil, err
	}
	undo, err := d.setTables(c)
	if err != nil {
		return nil, err
	}
	finishing := vanished(slices.Concat(d.finishing, old.Rules), c.Rules)
	if err := d.rehook(ctx, c, finishing); err != nil {
		undo()
		err = errors.Join(err, d.rehook(ctx, old, d.finishing))
		d.retainTables(ctx, hooks.Tables(old.Rules))
		return nil, err
	}
	d.finishing, d.reloaded = finishing, d.now()
	d.copies.take()                    // what the kernel let pass by the old rules
	d.engine.Answering(d.now(), false) // until it is listed whom the new rules name
	d.engine.Reload(d.now(), d.engineConfig(c))
	d.withdraw()
	d.config.Store(c)
	d.relist()
	d.retainTables(ctx, hooks.Tables(c.Rules))
	d.refreshBacklogs()
	d.warnInterfaces()
	d.log.Info("reloaded", "rules", len(c.Rules))
	d.warnForwards(ctx)
	return c, nil
}

// needsRestart refuses what cannot change while the daemon runs.
func needsRestart(old, next *config.Config) error {
	var errs []error
	if was, is := queues(old), queues(next); was != is {
		errs = append(errs, fmt.Errorf("daemon: queues: %d instead of %d takes a restart; nothing was changed", is, was))
	}
	for _, key := range []struct{ name, was, is string }{
		{"control", old.Daemon.Control, next.Daemon.Control},
		{"bpf", old.Daemon.BPF.String(), next.Daemon.BPF.String()},
		{"control_group", old.Daemon.ControlGroup, next.Daemon.ControlGroup},
	} {
		if key.was != key.is {
			errs = append(errs, fmt.Errorf("daemon: %s: %q instead of %q takes a restart; nothing was changed", key.name, key.is, key.was))
		}
	}
	return errors.Join(errs...)
}

// rehook replaces the hooks, in one step for each table of iptables.
func (d *daemon) rehook(ctx context.Context, c *config.Config, finishing []rules.Rule) error {
	h := d.newHooks(c, finishing)
	if err := errors.Join(h.Check(), d.followTables(ctx, c)); err != nil {
		return err
	}
	return d.install(ctx, h)
}

// newHooks are the hooks for a configuration, and for rules that have vanished.
func (d *daemon) newHooks(c *config.Config, finishing []rules.Rule) *hooks.Hooks {
	of := Hooks(c)
	of.Finishing, of.Programs = finishing, d.programPaths()
	return hooks.New(of, d.log)
}

// vanished are the rules whose scope no other one has now: what closes their
// connections is to come to the queues yet.
func vanished(old, now []rules.Rule) []rules.Rule {
	return slices.DeleteFunc(old, func(was rules.Rule) bool {
		return slices.ContainsFunc(now, func(is rules.Rule) bool { return sameScope(&was, &is) })
	})
}

func sameScope(a, b *rules.Rule) bool {
	return slices.Equal(a.On, b.On) && slices.Equal(a.NotOn, b.NotOn) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.To.Prefixes, b.To.Prefixes)
}

// finish takes out the hooks of rules that have vanished and whose states are over.
func (d *daemon) finish(ctx context.Context) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if len(d.finishing) == 0 || d.now() < d.reloaded+finishInterval {
		return
	}
	left := d.withStates(d.finishing)
	if len(left) == len(d.finishing) {
		return
	}
	if err := d.rehook(ctx, d.config.Load(), left); err != nil {
		d.failures.Do(func() { d.log.Warn("hooks of rules that have vanished stay in", "err", err) })
		return
	}
	d.finishing = left
}

// withStates are the rules whose servers have states.
func (d *daemon) withStates(list []rules.Rule) (left []rules.Rule) {
	has := make([]bool, len(list))
	_ = d.engine.States(d.now(), func(l *engine.Listed) error {
		for i := range list {
			has[i] = has[i] || list[i].Serves(l.Tuple.Destination())
		}
		return nil
	})
	for i := range list {
		if has[i] {
			left = append(left, list[i])
		}
	}
	return left
}
