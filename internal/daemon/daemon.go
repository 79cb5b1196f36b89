package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/hooks"
	"nfqfw/internal/inject"
	"nfqfw/internal/ipset"
	"nfqfw/internal/nfq"
	"nfqfw/internal/offload"
	"nfqfw/internal/refusal"
	"nfqfw/internal/table"
	"nfqfw/rules"
	"nfqfw/synproxy/cookie"
)

// firstQueue is the number of the first kernel queue. Others tend to start at 0.
const firstQueue = 7400

// stopTimeout is how long the hooks may take to come out.
const stopTimeout = 20 * time.Second

// The SYN proxy's handshakes under way are waited for so long when the daemon
// stops, and looked at so often.
const (
	drainTimeout  = 2 * time.Second
	drainInterval = 10 * time.Millisecond
)

// Options are what Run needs to know.
type Options struct {
	Load   func() (*config.Config, error) // reads the configuration as it is now
	Reload <-chan os.Signal               // asks that it be read again
	Log    *slog.Logger
}

// daemon is what runs.
type daemon struct {
	log        *slog.Logger
	load       func() (*config.Config, error)
	config     atomic.Pointer[config.Config]
	engine     *engine.Engine
	interfaces *interfaces
	started    time.Time
	killer     *killer
	flushes    *flushes
	failures   rate.Sometimes // log lines about what is tried again

	reloading sync.Mutex // guards what follows, and that there is one reload at a time
	hooks     *hooks.Hooks
	finishing []rules.Rule // that have vanished, and may have states
	reloaded  time.Duration

	lastRefusals *refusal.Ring
	tables       *table.Set
	mirror       *ipset.Mirror // of tables that hooks refer to

	// For their counters; complete before the control socket answers anybody.
	queues  []*nfq.Queue
	senders []*inject.Sender
}

// now is the engine's time.
func (d *daemon) now() time.Duration { return time.Since(d.started) }

// Hooks are the hooks that Run installs for a configuration.
func Hooks(c *config.Config) hooks.Config {
	return hooks.Config{
		Rules: c.Rules, FirstQueue: firstQueue, LastQueue: firstQueue + uint16(queues(c)) - 1,
		Open: c.Daemon.WhenDown == config.Open,
	}
}

func queues(c *config.Config) int {
	if c.Daemon.Queues > 0 {
		return c.Daemon.Queues
	}
	return runtime.NumCPU()
}

// newDaemon makes a daemon that has touched nothing yet.
func newDaemon(c *config.Config, o Options) (*daemon, error) {
	d := &daemon{
		log: o.Log, load: o.Load, interfaces: newInterfaces(), started: time.Now(),
		flushes: newFlushes(), hooks: hooks.New(Hooks(c), o.Log), failures: rate.Sometimes{Interval: time.Minute},
		lastRefusals: refusal.New(refusalsKept),
	}
	d.tables = table.New(d.now)
	d.mirror = ipset.New(d.tables, d.now, o.Log)
	if _, err := d.setTables(c); err != nil {
		return nil, err
	}
	d.engine = d.newEngine(c)
	d.config.Store(c)
	return d, nil
}

// Run is the firewall, until ctx ends. It takes over hooks that an earlier run
// left, and leaves none. What it needs and cannot have it says before it has
// changed anything; above all, it leaves the hooks of another daemon alone.
func Run(ctx context.Context, o Options) (err error) {
	c, err := o.Load()
	if err != nil {
		return err
	}
	if err := privileged(); err != nil {
		return err
	}
	d, err := newDaemon(c, o)
	if err != nil {
		return err
	}
	if err := d.hooks.Check(); err != nil {
		return err
	}
	server, err := control.Listen(c.Daemon.Control, d.handlers(), o.Log)
	if err != nil {
		return err
	}
	defer server.Close()
	restore, err := account()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	return d.run(ctx, server, o.Reload)
}

// account has the kernel count what connections carry, and note when they began, and
// returns how to undo it.
func account() (restore func() error, err error) {
	var off []offload.Setting
	restore = func() (err error) {
		for _, s := range off {
			_, failed := s.Set(false)
			err = errors.Join(err, failed)
		}
		return err
	}
	for _, s := range []offload.Setting{offload.Accounting, offload.Timestamps} {
		was, err := s.Set(true)
		if err != nil {
			return restore, errors.Join(err, restore())
		}
		if !was {
			off = append(off, s)
		}
	}
	return restore, nil
}

// run puts the hooks in when all loops run, and lets these go on until the
// hooks are out. The kernel gives a queue to one process only, so that hooks
// that are there once all queues are ours are nobody's.
func (d *daemon) run(ctx context.Context, server *control.Server, reload <-chan os.Signal) error {
	c := d.config.Load()
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(loops)
	if err := d.start(failed, group); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	d.warnInterfaces()
	d.refreshBacklogs()
	err := d.followTables(ctx, c)
	if err == nil {
		err = d.hooks.Install(ctx)
	}
	if err == nil {
		d.retainTables(ctx, hooks.Tables(c.Rules))
		d.engine.SetTimestamps(d.hooks.Timestamps())
		err = d.adopt() // what was established before the hooks were in, if they were not
	}
	if err == nil {
		// Whoever gets an answer knows that the hooks are in.
		group.Go(func() error { return server.Serve(failed) })
		d.log.Info("ready", "rules", len(c.Rules), "queues", queues(c), "control", c.Daemon.Control)
		d.warnForwards(ctx)
		d.keep(ctx, failed, reload)
	}
	err = joinNew(err, d.unhook(ctx))
	stop()
	err = errors.Join(err, group.Wait())
	d.log.Info("stopped")
	return err
}

// keep waits for the end, and reloads meanwhile when it is asked to.
func (d *daemon) keep(ctx, failed context.Context, reload <-chan os.Signal) {
	clock := time.NewTicker(finishInterval)
	defer clock.Stop()
	for {
		select {
		case <-ctx.Done():
			d.drain(failed)
			return
		case <-failed.Done(): // a loop has ended; its error comes from Wait
			return
		case <-reload:
			if _, err := d.reload(ctx); err != nil {
				d.log.Error("not reloaded; what was in force stays in force", "err", err)
			}
		case <-clock.C:
			d.finish(ctx)
		}
	}
}

// warnInterfaces tells of interfaces that rules name and that do not exist. They
// may come later, or be misspelt, and then nothing is limited.
func (d *daemon) warnInterfaces() {
	for _, r := range d.config.Load().Rules {
		for _, name := range r.On {
			if !d.interfaces.exists(name) {
				d.log.Warn("no such interface; what comes in by others passes untouched", "rule", r.Name, "interface", name)
			}
		}
	}
}

// warnForwards tells of rules about connections that nat forwards: these are not
// limited, and fail with the SYN proxy.
func (d *daemon) warnForwards(ctx context.Context) {
	forwards, err := hooks.Forwards(ctx)
	if err != nil && ctx.Err() == nil {
		d.log.Warn("the nat table is not looked at", "err", err)
	}
	for _, err := range hooks.Conflicts(forwards, d.config.Load().Rules) {
		d.log.Warn("forwarded by nat", "err", err)
	}
}

// drain lets the SYN proxy finish the handshakes it has begun, for a while.
func (d *daemon) drain(ctx context.Context) {
	d.engine.Drain()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for d.engine.Shaking() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(drainInterval):
		}
	}
}

// open is how many connections need the kernel to track them, or to translate for them.
func (d *daemon) open() int {
	n := 0
	_ = d.engine.States(d.now(), func(l *engine.Listed) error {
		if l.Offloaded && !l.Closed() {
			n++
		}
		return nil
	})
	return n
}

// unhook takes the hooks out, though ctx has ended. The kernel goes on with the
// connections that are open.
func (d *daemon) unhook(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	defer d.retainTables(ctx, nil)
	n := d.open()
	if n == 0 {
		return d.hooks.Remove(ctx)
	}
	d.log.Warn("connections stay open, and two chains that keep them going are left in the tables mangle", "connections", n, "chains", hooks.Translation+" "+hooks.Closing)
	return d.hooks.Retire(ctx)
}

// joinNew joins errors, unless the second only repeats the first: what keeps
// the hooks from going in mostly keeps them from coming out.
func joinNew(first, second error) error {
	if first != nil && second != nil && first.Error() == second.Error() {
		return first
	}
	return errors.Join(first, second)
}

func (d *daemon) newEngine(c *config.Config) *engine.Engine {
	seeds := engine.Seeds{NewerKey: randomKey(), OlderKey: randomKey(), Hash: randomKey()[0]}
	return engine.New(d.engineConfig(c), seeds)
}

func (d *daemon) engineConfig(c *config.Config) engine.Config {
	return engine.Config{
		Ruleset: rules.New(c.Rules, d.tables.Lookup), Timeouts: c.RuleTimeouts, States: c.Limits.States, SrcNodes: c.Limits.SrcNodes,
		Cookies: c.Cookies.Mode, Start: c.Cookies.Start, End: c.Cookies.End,
	}
}

func randomKey() cookie.Key {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return cookie.Key{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

// start opens all that the loops need, and sets them going.
func (d *daemon) start(ctx context.Context, group *errgroup.Group) error {
	t, err := d.newTicker()
	if err != nil {
		return err
	}
	group.Go(func() error { return t.run(ctx) })
	if d.killer, err = d.newKiller(); err != nil {
		return err
	}
	group.Go(func() error { return d.killer.run(ctx) })
	group.Go(func() error { return d.mirror.Run(ctx) })
	workers := make([]*worker, queues(d.config.Load()))
	for i := range workers {
		w, err := d.newWorker(firstQueue + uint16(i))
		if err != nil {
			return errors.Join(err, closeAll(workers[:i]))
		}
		workers[i] = w
	}
	// The queues are ours, and packets wait in them: nobody gets in who would not if
	// there had always been a daemon.
	if err := d.adopt(); err != nil {
		return errors.Join(err, closeAll(workers))
	}
	for _, w := range workers {
		group.Go(func() error { return w.run(ctx) })
	}
	return nil
}

func closeAll(workers []*worker) (err error) {
	for _, w := range workers {
		err = errors.Join(err, w.queue.Close(), w.close())
	}
	return err
}

func queueConfig(number uint16, log *slog.Logger) nfq.Config {
	c := nfq.Default()
	c.Number, c.Logger = number, log
	return c
}
