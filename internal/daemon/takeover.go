package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"nfqfw/internal/bpf"
	"nfqfw/internal/config"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/nfq"
	"nfqfw/rules"
)

// answerTakeover hands over to the daemon that asks.
func (d *daemon) answerTakeover(ctx context.Context, raw json.RawMessage, _ func(any) error) error {
	var args control.TakeoverArgs
	if err := parseArgs("takeover", raw, &args); err != nil {
		return err
	}
	c, err := net.DialTimeout("unix", args.Socket, time.Second)
	if err != nil {
		return fmt.Errorf("takeover: %w", err)
	}
	defer c.Close()
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if err := d.handOver(c.(*net.UnixConn)); err != nil {
		d.log.Warn("not handed over; this daemon goes on", "err", err)
		return errors.Join(fmt.Errorf("takeover: %w", err), d.rehook(ctx, d.config.Load(), d.finishing))
	}
	return nil
}

// handOver stops judging, tells all that is needed to go on, and lets go when the other
// is ready. After an error it judges again.
func (d *daemon) handOver(c *net.UnixConn) (err error) {
	if err := c.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return err
	}
	d.frozen.Lock()
	var resume []func()
	for _, q := range d.queues {
		resume = append(resume, q.Pause())
	}
	d.withdraw()
	d.copies.take()
	defer func() {
		d.frozen.Unlock()
		if err == nil {
			return
		}
		d.copies.missed.Store(true) // the other may have taken some
		for _, f := range resume {
			f()
		}
	}()
	files, err := d.files()
	if err != nil {
		return err
	}
	defer closeFiles(files)
	if err := sendFiles(c, files); err != nil {
		return err
	}
	out := bufio.NewWriterSize(c, 1<<20)
	if err := errors.Join(d.handover().write(out, d.engine), out.Flush()); err != nil {
		return err
	}
	if err := hears(c, saysReady); err != nil {
		return err
	}
	d.release(c)
	return nil
}

// change does what another daemon has to be told of: not while it is told, and not
// after.
func (d *daemon) change(f func()) {
	d.frozen.RLock()
	defer d.frozen.RUnlock()
	if !d.handedOver.Load() {
		f()
	}
}

// release leaves everything to the other daemon. There is no way back.
func (d *daemon) release(c io.Writer) {
	d.handedOver.Store(true)
	d.server.Release()
	for _, q := range d.queues {
		if err := q.Close(); err != nil {
			d.log.Warn("a queue that was handed over", "err", err)
		}
	}
	if err := d.copies.close(); err != nil {
		d.log.Warn("the log group that was handed over", "err", err)
	}
	_, _ = c.Write([]byte{saysReleased})
	close(d.gone)
}

func (d *daemon) files() (files []*os.File, err error) {
	for _, q := range d.queues {
		f, err := q.File()
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
	}
	for _, file := range []func() (*os.File, error){d.copies.file, d.server.File} {
		f, err := file()
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append(files, f)
	}
	if d.programs != nil {
		more, err := d.programs.Files()
		files = append(files, more...)
		if err != nil {
			closeFiles(files)
			return nil, err
		}
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (d *daemon) handover() *handover {
	h := &handover{
		Version: handoverVersion, At: sinceBoot(), Now: d.now(), Settings: d.settings, Finishing: d.finishing,
		Tables: d.tables.Added(), Hooks: d.hooks.Text(), Stamps: d.hooks.Timestamps(), Programs: d.programs != nil,
	}
	for _, q := range d.queues {
		h.Queues = append(h.Queues, q.Number())
	}
	h.Engine = *d.engine.Save(h.Now)
	return h
}

// hears reads what the other says.
func hears(r io.Reader, want byte) error {
	b := make([]byte, 1)
	switch _, err := io.ReadFull(r, b); {
	case err != nil:
		return fmt.Errorf("the other daemon: %w", err)
	case b[0] != want:
		return fmt.Errorf("the other daemon says %q", b[0])
	}
	return nil
}

// takeover is a daemon that is about to go on in the place of another.
type takeover struct {
	*daemon
	handover
	conn  *net.UnixConn
	files []*os.File
	lost  int // states for which there was no room
}

// takeOver makes a daemon of what the one that listens at the configuration's control
// socket hands over. Where none listens, it is nil.
func takeOver(ctx context.Context, c *config.Config, o Options) (t *takeover, err error) {
	conn, err := meet(ctx, c.Daemon.Control)
	if conn == nil || err != nil {
		return nil, err
	}
	t = &takeover{conn: conn}
	defer func() {
		if err != nil {
			conn.Close() // the other goes on
			closeFiles(t.files)
			err = fmt.Errorf("take over: %w", err)
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(handoverTimeout)); err != nil {
		return nil, err
	}
	if t.files, err = receiveFiles(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 1<<20)
	err = t.read(in, func() error { return t.begin(c, o) }, func(s *engine.SavedState) {
		if !t.engine.RestoreState(t.now(), s) {
			t.lost++
		}
	})
	if err != nil {
		return nil, err
	}
	t.engine.Resumed()
	t.engine.Reload(t.now(), t.engineConfig(c))
	return t, nil
}

// meet has the daemon at a control socket connect to us.
func meet(ctx context.Context, socket string) (*net.UnixConn, error) {
	if probe, err := net.DialTimeout("unix", socket, time.Second); err != nil {
		return nil, nil // nobody is there
	} else {
		probe.Close()
	}
	// Beside the control socket, where the other can reach it whatever it sees of /tmp.
	dir, err := os.MkdirTemp(filepath.Dir(socket), "takeover-")
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	defer os.RemoveAll(dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/socket", Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	defer l.Close()
	asked := make(chan error, 1)
	go func() {
		args := control.TakeoverArgs{Socket: l.Addr().String()}
		asked <- control.Call(ctx, socket, control.Takeover, args, func(json.RawMessage) error { return nil })
		l.Close()
	}()
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("take over: %w", errors.Join(<-asked, ctx.Err()))
	}
	return conn, nil
}

// begin makes the daemon, before the states come.
func (t *takeover) begin(c *config.Config, o Options) error {
	want := queues(c)
	if len(t.Queues) != want {
		return fmt.Errorf("daemon: queues: %d instead of %d takes a restart", want, len(t.Queues))
	}
	if more := len(t.files) - want - 2; t.Programs && more != bpf.FileCount || !t.Programs && more != 0 {
		return fmt.Errorf("%d descriptors came", len(t.files))
	}
	began := time.Now().Add(-t.Now - time.Duration(sinceBoot()-t.At))
	d, err := newDaemon(c, o, began)
	if err != nil {
		return err
	}
	t.daemon = d
	d.tables.Restore(d.now(), t.Tables)
	d.engine = engine.Resume(&t.Engine, newSeeds(), d.tables.Lookup)
	d.settings, d.finishing = t.Settings, vanished(slices.Concat(t.Finishing, savedRules(t.Engine.Rules)), c.Rules)
	d.inherited, d.bequest = t.files[:len(t.Queues)+1], t.files[len(t.Queues)+2:]
	d.hooks = d.newHooks(c, d.finishing)
	return nil
}

// takeHooks has the hooks in. Those that are the same stay: packets wait meanwhile.
func (t *takeover) takeHooks(ctx context.Context) error {
	if t.hooks.Text() != t.Hooks {
		return t.hook(ctx)
	}
	t.hooks.Inherit(t.Stamps)
	t.asked(t.hooks.Grants())
	t.engine.SetTimestamps(t.Stamps)
	t.refreshBacklogs()
	return t.followTables(ctx, t.config.Load())
}

func savedRules(s engine.SavedRuleset) (list []rules.Rule) {
	for i := range s.Rules {
		list = append(list, s.Rules[i].Rule)
	}
	return list
}

// runOn is the life of a daemon that goes on in the place of another, or err. Until it
// has taken charge it leaves the kernel to the other.
func (t *takeover) runOn(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	defer func() {
		if t.server != nil {
			t.server.Close()
		}
	}()
	t.handedOver.Store(true)
	return t.run(ctx, t.takeHooks, t.takeCharge)
}

// takeCharge tells the other daemon that this one judges from here on, and takes its
// control socket.
func (t *takeover) takeCharge() (err error) {
	defer t.conn.Close()
	if _, err := t.conn.Write([]byte{saysReady}); err != nil {
		return fmt.Errorf("take over: %w", err)
	}
	t.handedOver.Store(false)
	if err := hears(t.conn, saysReleased); err != nil {
		t.log.Warn("the daemon from which this one has taken over", "err", err)
	}
	if t.lost > 0 {
		t.log.Warn("no room for states of the daemon from which this one has taken over", "states", t.lost)
	}
	t.server, err = control.Inherit(t.files[len(t.Queues)+1], t.handlers(), t.log)
	return err
}

// openQueue opens a queue, or goes on with the one that was inherited.
func (d *daemon) openQueue(i int) (*nfq.Queue, error) {
	number := firstQueue + uint16(i)
	c := queueConfig(number, d.log.With("queue", number))
	if d.inherited != nil {
		return nfq.Inherit(c, d.inherited[i])
	}
	q, err := nfq.Open(c)
	return q, explainTaken(err)
}

// explainTaken says what is to be done when another process has what the daemon needs.
func explainTaken(err error) error {
	if errors.Is(err, nfq.ErrTaken) {
		return fmt.Errorf("%w; is nfqfw running already? --takeover goes on in its place", err)
	}
	return err
}
