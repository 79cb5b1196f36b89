package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"nfqfw/internal/bpf"
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

	Takeover bool // go on in the place of the daemon that runs, if one does
}

// daemon is what runs.
type daemon struct {
	log        *slog.Logger
	load       func() (*config.Config, error)
	reloads    <-chan os.Signal
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

	server     *control.Server
	settings   []offload.Setting // that were off before there was a daemon
	inherited  []*os.File        // sockets of queues, and of the log group, that another daemon has opened
	frozen     sync.RWMutex      // held while another daemon is told all; readers change something
	handedOver atomic.Bool       // another daemon has taken over
	gone       chan struct{}     // closed then

	programs *bpf.Programs // nil: the kernel has none of ours
	recorded atomic.Bool   // the hooks that are in ask them
	answerer *answerer     // nil: the kernel answers no SYNs
	bequest  []*os.File    // the memory and the ring of those that another daemon had

	lastRefusals *refusal.Ring
	tables       *table.Set
	mirror       *ipset.Mirror // of tables that hooks refer to

	// For their counters; complete before the control socket answers anybody.
	queues    []*nfq.Queue
	senders   []*inject.Sender
	overflows *lossTeller

	copies *copies
	hearts []*heart // of the loops; complete before there is a watchdog
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

// newDaemon makes a daemon without an engine that has touched nothing yet, and whose
// time begins then.
func newDaemon(c *config.Config, o Options, started time.Time) (*daemon, error) {
	d := &daemon{
		log: o.Log, load: o.Load, reloads: o.Reload, interfaces: newInterfaces(), started: started, gone: make(chan struct{}),
		flushes: newFlushes(), hooks: hooks.New(Hooks(c), o.Log), failures: rate.Sometimes{Interval: time.Minute},
		lastRefusals: refusal.New(refusalsKept),
	}
	d.tables = table.New(d.now)
	d.mirror = ipset.New(d.tables, d.now, o.Log)
	d.tables.Watch(func(t *table.Table, p netip.Prefix) {
		d.listChange(t, p)
		d.withdraw()
	})
	if _, err := d.setTables(c); err != nil {
		return nil, err
	}
	d.config.Store(c)
	return d, nil
}

// Run is the firewall, until ctx ends, or until another daemon has taken over. It takes
// over hooks that an earlier run left, and leaves none. What it needs and cannot have it
// says before it has changed anything; above all, it leaves the hooks of another daemon
// alone.
func Run(ctx context.Context, o Options) error {
	c, err := o.Load()
	if err != nil {
		return err
	}
	if err := privileged(); err != nil {
		return err
	}
	if o.Takeover {
		t, err := takeOver(ctx, c, o)
		if t != nil || err != nil {
			return t.runOn(ctx, err)
		}
		o.Log.Info("there is no daemon to take over from", "control", c.Daemon.Control)
	}
	d, err := newDaemon(c, o, time.Now())
	if err != nil {
		return err
	}
	if err := d.hooks.Check(); err != nil {
		return err
	}
	d.engine = d.newEngine(c)
	if d.server, err = control.Listen(c.Daemon.Control, d.handlers(), o.Log); err != nil {
		return err
	}
	defer d.server.Close()
	if err := d.server.Share(c.Daemon.ControlGroup); err != nil {
		return err
	}
	if err := d.account(); err != nil {
		return errors.Join(err, d.settle())
	}
	return d.run(ctx, d.hook, d.adopt)
}

// account has the kernel count what connections carry, and note when they began.
func (d *daemon) account() error {
	for _, s := range []offload.Setting{offload.Accounting, offload.Timestamps} {
		was, err := s.Set(true)
		if err != nil {
			return err
		}
		if !was {
			d.settings = append(d.settings, s)
		}
	}
	return nil
}

// settle leaves the kernel's settings as they were, unless they are another daemon's
// affair.
func (d *daemon) settle() (err error) {
	if d.handedOver.Load() {
		return nil
	}
	for _, s := range d.settings {
		_, failed := s.Set(false)
		err = errors.Join(err, failed)
	}
	return err
}

// run is the daemon's life. The queues are ours first, and packets wait in them while
// the hooks go in, and until begin has found out what there is already: nobody gets in
// who would not if there had always been a daemon. The kernel gives a queue to one
// process only, so that hooks that are there once all queues are ours are nobody's.
func (d *daemon) run(ctx context.Context, hook func(context.Context) error, begin func() error) error {
	d.openPrograms()
	if err := confine(d.log); err != nil {
		return errors.Join(err, d.settle())
	}
	loops, err := d.openLoops()
	if err != nil {
		return errors.Join(err, d.settle())
	}
	d.overflows = d.newLossTeller()
	d.pinPrograms()
	watchdog, err := d.newWatchdog()
	if err == nil {
		err = hook(ctx)
	}
	if err == nil {
		err = begin()
	}
	if err != nil {
		return joinNew(err, errors.Join(loops.close(), d.end(ctx)))
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(running)
	loops.run(failed, group)
	loops.await(failed)
	// Whoever gets an answer knows that the hooks are in, and that packets are judged.
	group.Go(func() error { return d.server.Serve(failed) })
	group.Go(func() error { return watchdog.run(failed) })
	d.tellReady()
	c := d.config.Load()
	d.log.Info("ready", "rules", len(c.Rules), "queues", queues(c), "control", c.Daemon.Control)
	d.warnInterfaces()
	d.warnForwards(ctx)
	d.keep(ctx, failed)
	err = d.end(ctx)
	stop()
	return errors.Join(err, group.Wait(), loops.copies.close())
}

// hook puts the hooks in.
func (d *daemon) hook(ctx context.Context) error {
	d.refreshBacklogs()
	c := d.config.Load()
	if err := d.followTables(ctx, c); err != nil {
		return err
	}
	if err := d.install(ctx, d.hooks); err != nil {
		return err
	}
	d.retainTables(ctx, hooks.Tables(c.Rules))
	return nil
}

// install puts hooks in, which are the daemon's from then on.
func (d *daemon) install(ctx context.Context, h *hooks.Hooks) error {
	if err := h.Install(ctx); err != nil {
		return err
	}
	d.engine.SetTimestamps(h.Timestamps())
	d.hooks = h
	d.asked(h.Grants())
	return nil
}

// end takes out what the daemon has put into the kernel, unless another one goes on.
func (d *daemon) end(ctx context.Context) error {
	if d.handedOver.Load() {
		d.log.Info("handed over")
		return nil
	}
	err := errors.Join(d.unhook(ctx), d.settle(), d.unpinPrograms(), d.closeAnswerer())
	d.log.Info("stopped")
	return err
}

// keep waits for the end. Meanwhile it reloads when it is asked to, and puts back what
// others take out of the kernel.
func (d *daemon) keep(ctx, failed context.Context) {
	clock, watch := time.NewTicker(finishInterval), time.NewTicker(watchInterval)
	defer clock.Stop()
	defer watch.Stop()
	repairs := d.newRepairer(ctx)
	defer repairs.close()
	for {
		select {
		case <-ctx.Done():
			d.tellStopping()
			d.drain(failed)
			return
		case <-failed.Done(): // a loop has ended; its error comes from Wait
			return
		case <-d.gone:
			return
		case <-d.reloads:
			if _, err := d.reload(ctx); err != nil {
				d.log.Error("not reloaded; what was in force stays in force", "err", err)
			}
		case <-clock.C:
			d.finish(ctx)
		case <-watch.C:
			repairs.look(ctx)
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
	d.engine.Drain(d.now())
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for d.engine.Shaking() && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(drainInterval):
		}
	}
}

// open is how many connections need the kernel to track them, or to translate for them:
// those of kept handshakes too, which may be done before there is another daemon.
func (d *daemon) open() int {
	n := 0
	_ = d.engine.States(d.now(), func(l *engine.Listed) error {
		if l.Offloaded && !l.Closed() || l.Opening() && !l.ShakingHands() {
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
	return engine.New(d.engineConfig(c), newSeeds())
}

func newSeeds() engine.Seeds {
	return engine.Seeds{NewerKey: randomKey(), OlderKey: randomKey(), Hash: randomKey()[0]}
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

// loops are what runs.
type loops struct {
	ticker  *ticker
	killer  *killer
	copies  *copies
	mirror  func(context.Context) error
	workers []*worker
}

// openLoops opens all that the loops need. After an error nothing is open.
func (d *daemon) openLoops() (*loops, error) {
	l := &loops{mirror: d.mirror.Run}
	if err := l.open(d); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *loops) open(d *daemon) (err error) {
	if l.ticker, err = d.newTicker(); err != nil {
		return err
	}
	if d.killer, err = d.newKiller(); err != nil {
		return err
	}
	l.killer = d.killer
	for i := range queues(d.config.Load()) {
		w, err := d.newWorker(i)
		if err != nil {
			return err
		}
		l.workers = append(l.workers, w)
	}
	if d.copies, err = d.newCopies(); err != nil {
		return err
	}
	l.copies = d.copies
	return nil
}

func (l *loops) run(ctx context.Context, group *errgroup.Group) {
	group.Go(func() error { return l.ticker.run(ctx) })
	group.Go(func() error { return l.ticker.links.run(ctx) })
	group.Go(func() error { return l.killer.run(ctx) })
	group.Go(func() error { return l.mirror(ctx) })
	for _, w := range l.workers {
		group.Go(func() error { return w.run(ctx) })
	}
}

// await waits until packets come to all queues, or ctx ends.
func (l *loops) await(ctx context.Context) {
	for _, w := range l.workers {
		select {
		case <-w.queue.Listening():
		case <-ctx.Done():
		}
	}
}

// close is for loops that have not run.
func (l *loops) close() (err error) {
	if l.ticker != nil {
		err = errors.Join(err, l.ticker.close())
	}
	if l.killer != nil {
		err = errors.Join(err, l.killer.close())
	}
	if l.copies != nil {
		err = errors.Join(err, l.copies.close())
	}
	for _, w := range l.workers {
		err = errors.Join(err, w.close())
	}
	return err
}

func queueConfig(number uint16, log *slog.Logger) nfq.Config {
	c := nfq.Default()
	c.Number, c.Logger = number, log
	return c
}
