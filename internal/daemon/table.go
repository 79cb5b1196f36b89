package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/hooks"
	"nfqfw/internal/ipset"
	"nfqfw/internal/table"
	"nfqfw/rules"
)

// setTables makes the tables those of a configuration, and returns how to undo it.
func (d *daemon) setTables(c *config.Config) (undo func(), err error) {
	now := d.now()
	contents, err := table.Load(now, c.Tables, c.Limits.TableEntries)
	if err != nil {
		return nil, err
	}
	return d.tables.Replace(now, contents)
}

// followTables has the kernel's sets there that the hooks of a configuration refer to,
// as the tables are now.
func (d *daemon) followTables(ctx context.Context, c *config.Config) error {
	if err := d.mirror.Follow(ctx, hooks.Tables(c.Rules)); err != nil {
		return err
	}
	return d.mirror.Flush(ctx)
}

// retainTables removes the sets of all tables but some, once no hooks refer to them.
func (d *daemon) retainTables(ctx context.Context, names []string) {
	if err := d.mirror.Retain(ctx, names); err != nil {
		d.log.Warn("sets that are of no use any more stay in the kernel", "err", err)
	}
}

// overload puts a source into the table of the rule whose limit it has passed, and has
// its states flushed if the rule says so.
func (x *executor) overload(o *engine.Overload) {
	added, err := x.tables.Add(x.now(), o.Table, o.Prefix, table.Overload)
	switch {
	case err != nil:
		x.failures.Do(func() {
			x.log.Warn("a source over its limit is not put into the table", "table", o.Table, "source", o.Prefix, "rule", o.Rule, "err", err)
		})
	case added:
		x.put.Do(func() {
			x.log.Info("source put into table", "table", o.Table, "source", o.Prefix, "rule", o.Rule)
		})
	}
	if k, ok := flushKeyOf(o); ok {
		x.flushes.add(k)
	}
}

// listTables answers "nfqfw table" without the name of one.
func (d *daemon) listTables(_ context.Context, _ json.RawMessage, send func(any) error) error {
	for _, t := range d.tables.Tables() {
		item := &control.Table{Name: t.Name(), Entries: t.Len(), TTL: t.TTL().Seconds()}
		if err := send(item); err != nil {
			return err
		}
	}
	return nil
}

// answerTable answers "nfqfw table NAME …".
func (d *daemon) answerTable(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.TableArgs
	if err := parseArgs("table", raw, &args); err != nil {
		return err
	}
	list, err := parseEntries(args.Addresses)
	if err != nil {
		return err
	}
	err = errors.New("table: another daemon has taken over meanwhile; ask it again")
	d.change(func() { err = d.doTable(ctx, &args, list, send) })
	return err
}

// parseEntries reads all, or tells of each that is none.
func parseEntries(words []string) (list []rules.Prefix, err error) {
	var errs []error
	for _, w := range words {
		p, err := config.ParseEntry(w)
		if err != nil {
			errs = append(errs, fmt.Errorf("table: %w", err))
		}
		list = append(list, p)
	}
	return list, errors.Join(errs...)
}

func (d *daemon) doTable(ctx context.Context, args *control.TableArgs, list []rules.Prefix, send func(any) error) error {
	t, err := d.tables.Table(args.Table)
	if err != nil {
		return fmt.Errorf("table: %w", err)
	}
	done := &control.TableDone{Table: args.Table, Command: args.Command, Given: len(list)}
	switch args.Command {
	case control.TableShow:
		return d.showTable(ctx, t, args.Counters, send)
	case control.TableTest:
		done.Done, err = testTable(t, list)
	case control.TableAdd:
		done.Done, err = d.tables.AddAll(d.now(), args.Table, list, ttlOf(t, args.TTL))
	case control.TableDelete:
		done.Done, err = d.tables.DeleteAll(d.now(), args.Table, list)
	case control.TableFlush:
		done.Done, err = d.tables.Flush(d.now(), args.Table)
	default:
		err = fmt.Errorf("table: %q: the daemon has no such command; is it older than the command line?", args.Command)
	}
	if err != nil {
		return err
	}
	// Whoever gets an answer knows that the kernel does so too.
	if err := d.mirror.Flush(ctx); err != nil {
		return fmt.Errorf("table: done, but the kernel does not follow yet: %w", err)
	}
	return send(done)
}

// ttlOf is how long an entry that a command adds stays: as it says, or as the table does.
func ttlOf(t *table.Table, seconds *float64) time.Duration {
	if seconds == nil {
		return t.TTL()
	}
	return min(time.Duration(*seconds*float64(time.Second)), config.MaxTTL)
}

// testTable counts the addresses that a table holds.
func testTable(t *table.Table, list []rules.Prefix) (n int, err error) {
	var errs []error
	for _, p := range list {
		switch {
		case p.Negated || !p.IsSingleIP():
			errs = append(errs, fmt.Errorf("table: %s: only an address can be tested", p.Prefix))
		case t.Contains(p.Addr()):
			n++
		}
	}
	return n, errors.Join(errs...)
}

// showTable sends the entries, with the kernel's counters if it has any of them.
func (d *daemon) showTable(ctx context.Context, t *table.Table, counters bool, send func(any) error) error {
	var counted map[netip.Prefix]ipset.Counter
	if counters {
		var err error
		if counted, err = d.mirror.Counters(ctx, t.Name()); err != nil {
			return fmt.Errorf("table: %w", err)
		}
	}
	now := d.now()
	for e := range t.Entries {
		item := d.tableEntry(e, now)
		if counted != nil {
			c := ipset.Of(counted, e.Prefix)
			item.InBlock = &control.Counter{Packets: c.Packets, Bytes: c.Bytes}
		}
		if err := errors.Join(ctx.Err(), send(item)); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) tableEntry(e table.Entry, now time.Duration) *control.TableEntry {
	item := &control.TableEntry{
		Address: rules.PrefixText(e.Prefix), Negated: e.Negated, Origin: e.Origin.String(), Cleared: d.started.Add(e.Added).Round(time.Second),
	}
	if e.Expires != 0 {
		left := (e.Expires - now).Round(time.Millisecond).Seconds()
		item.Expires = &left
	}
	return item
}
