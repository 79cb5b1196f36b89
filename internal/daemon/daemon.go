package daemon

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/hooks"
	"nfqfw/internal/nfq"
	"nfqfw/internal/offload"
	"nfqfw/synproxy"
)

// firstQueue is the number of the first kernel queue. Others tend to start at 0.
const firstQueue = 7400

// stopTimeout is how long the hooks may take to come out.
const stopTimeout = 20 * time.Second

// daemon is what runs.
type daemon struct {
	log     *slog.Logger
	engine  *engine.Engine
	names   *interfaceNames
	started time.Time
}

// now is the engine's time.
func (d *daemon) now() time.Duration { return time.Since(d.started) }

// Hooks are the hooks that Run installs for a configuration.
func Hooks(c *config.Config) hooks.Config {
	return hooks.Config{
		Rules: c.Ruleset.Rules(), FirstQueue: firstQueue, LastQueue: firstQueue + uint16(queues(c)) - 1,
		Open: c.Daemon.WhenDown == config.Open,
	}
}

func queues(c *config.Config) int {
	if c.Daemon.Queues > 0 {
		return c.Daemon.Queues
	}
	return runtime.NumCPU()
}

// Run is the firewall, until ctx ends. It takes over hooks that an earlier run
// left, and leaves none.
func Run(ctx context.Context, c *config.Config, log *slog.Logger) (err error) {
	d := &daemon{log: log, engine: newEngine(c), names: newInterfaceNames(), started: time.Now()}
	server, err := control.Listen(c.Daemon.Control, d.handlers(), log)
	if err != nil {
		return err
	}
	defer server.Close()
	counted, err := offload.SetAccounting(true)
	if err != nil {
		return err
	}
	defer func() {
		if !counted {
			_, restoreErr := offload.SetAccounting(false)
			err = errors.Join(err, restoreErr)
		}
	}()
	h := hooks.New(Hooks(c), log)

	// The loops outlive ctx: they go on until the hooks are out.
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(loops)
	if err := d.start(failed, group, c); err != nil {
		stop()
		return errors.Join(err, group.Wait())
	}
	err = h.Install(ctx)
	if err == nil {
		// Whoever gets an answer knows that the hooks are in.
		group.Go(func() error { return server.Serve(failed) })
		log.Info("ready", "rules", len(c.Ruleset.Rules()), "queues", queues(c), "control", c.Daemon.Control)
		select {
		case <-ctx.Done():
		case <-failed.Done(): // a loop has ended; its error comes from Wait
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = errors.Join(err, h.Remove(end))
	stop()
	err = errors.Join(err, group.Wait())
	log.Info("stopped", "err", err)
	return err
}

func newEngine(c *config.Config) *engine.Engine {
	return engine.New(engine.Config{
		Ruleset: c.Ruleset, Timeouts: c.RuleTimeouts, States: c.Limits.States, SrcNodes: c.Limits.SrcNodes,
		NewerKey: randomKey(), OlderKey: randomKey(),
	})
}

func randomKey() synproxy.Key {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return synproxy.Key{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

// start opens all that the loops need, and sets them going.
func (d *daemon) start(ctx context.Context, group *errgroup.Group, c *config.Config) error {
	t, err := d.newTicker()
	if err != nil {
		return err
	}
	group.Go(func() error { return t.run(ctx) })
	for i := range queues(c) {
		number := firstQueue + uint16(i)
		w, err := d.newWorker(number)
		if err != nil {
			return fmt.Errorf("start: %w", err)
		}
		group.Go(func() error { return w.run(ctx) })
	}
	return nil
}

func queueConfig(number uint16, log *slog.Logger) nfq.Config {
	c := nfq.Default()
	c.Number, c.Logger = number, log
	return c
}
