package ipset

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"nfqfw/internal/table"
)

const (
	pause     = 20 * time.Millisecond // between two calls of the program, in which notes gather
	retry     = time.Second           // after an error
	retryMost = time.Minute           // after many
)

// Mirror keeps the kernel's copies. It is safe for concurrent use.
type Mirror struct {
	tables *table.Set
	now    func() time.Duration // the tables' time
	log    *slog.Logger
	bell   chan struct{}

	kernel sync.Mutex // held while the kernel's sets change
	size   int        // of the sets, in entries

	mu       sync.Mutex
	followed map[string]*notes // by table
}

// New makes a mirror of tables; it follows none yet. It becomes the watcher of the
// tables, of which there must be none so far.
func New(tables *table.Set, now func() time.Duration, log *slog.Logger) *Mirror {
	m := &Mirror{tables: tables, now: now, log: log, bell: make(chan struct{}, 1), followed: make(map[string]*notes)}
	tables.Watch(m.note)
	return m
}

// Follow makes the sets of tables that are not followed yet, before rules refer to
// them, and larger or smaller ones if there may be another number of entries. A set that an earlier run left is replaced, rules refer to it or not.
func (m *Mirror) Follow(ctx context.Context, names []string) error {
	m.kernel.Lock()
	defer m.kernel.Unlock()
	fresh := m.follow(names)
	if _, limit := m.tables.Usage(); limit != m.size {
		fresh, m.size = names, limit
	}
	for _, name := range fresh {
		if err := m.rewrite(ctx, name); err != nil {
			m.forget(func(name string) bool { return slices.Contains(fresh, name) })
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	return nil
}

// Retain removes all sets but those of some tables, once no rule refers to them.
func (m *Mirror) Retain(ctx context.Context, names []string) error {
	m.kernel.Lock()
	defer m.kernel.Unlock()
	m.forget(func(name string) bool { return !slices.Contains(names, name) })
	there, err := sets(ctx)
	if err != nil && len(names) == 0 {
		m.log.Debug("no set is removed", "err", err) // the program or the kernel has none
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, set := range there {
		of := func(name string) bool { return set == Name(name, false) || set == Name(name, true) }
		if !slices.ContainsFunc(names, of) {
			errs = append(errs, destroy(ctx, set))
		}
	}
	return errors.Join(errs...)
}

// destroyTimeout is how long a rule may take to let go of its set: the kernel frees
// rules some time after they are out.
const destroyTimeout = 3 * time.Second

func destroy(ctx context.Context, set string) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	for {
		err := run(ctx, nil, io.Discard, "destroy", set)
		if !errors.Is(err, errInUse) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ipset: the set %s %w", set, errInUse)
		case <-time.After(pause):
		}
	}
}

// Run has the sets follow their tables until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	wait := pause
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.bell:
		}
		switch err := m.Flush(ctx); {
		case ctx.Err() != nil:
			return nil
		case err == nil && wait > pause:
			m.log.Info("the kernel's sets follow their tables again")
			wait = pause
		case err != nil:
			if wait == pause {
				m.log.Error("the kernel's sets do not follow their tables; trying on", "err", err)
			}
			wait = min(max(2*wait, retry), retryMost)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// Flush tells the kernel what it does not know yet. What it refuses, Run tries again.
func (m *Mirror) Flush(ctx context.Context) error {
	m.kernel.Lock()
	defer m.kernel.Unlock()
	taken := m.take()
	err := m.update(ctx, taken)
	for name, n := range taken {
		if n.all && err == nil {
			err = m.rewrite(ctx, name)
		}
	}
	if err != nil {
		m.giveBack(taken)
	}
	return err
}

// update tells of single entries.
func (m *Mirror) update(ctx context.Context, taken map[string]notes) error {
	n := 0
	for _, notes := range taken {
		n += len(notes.prefixes)
	}
	if n == 0 {
		return nil
	}
	now := m.now()
	return restore(ctx, func(w io.Writer) {
		for name, notes := range taken {
			t, err := m.tables.Table(name)
			if err != nil {
				continue // it is gone, and its set will be
			}
			for element := range notes.prefixes {
				writeElement(w, t, element, now)
			}
		}
	})
}

// rewrite makes the sets of a table anew, which then take the place of those that are
// there.
func (m *Mirror) rewrite(ctx context.Context, name string) error {
	t, err := m.tables.Table(name)
	if err != nil {
		return nil // it is gone, and its set will be
	}
	there, err := sets(ctx)
	if err != nil {
		return err
	}
	now := m.now()
	return restore(ctx, func(w io.Writer) {
		for _, f := range families {
			set, next := Name(name, f.ipv6), Name(newSet, f.ipv6)
			if slices.Contains(there, next) {
				fmt.Fprintf(w, "destroy %s\n", next)
			}
			create(w, next, f, room(m.size))
			writeAll(w, next, t, f, now)
			if slices.Contains(there, set) {
				fmt.Fprintf(w, "swap %s %s\ndestroy %s\n", next, set, next)
			} else {
				fmt.Fprintf(w, "rename %s %s\n", next, set)
			}
		}
	})
}
