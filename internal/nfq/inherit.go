package nfq

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A queue is its socket's: whoever has a descriptor of that can read on where another
// process has stopped. The packets that come meanwhile wait.

// Inherit goes on with a queue that another process has opened by Open, and paused. It
// keeps the descriptor, and leaves the queue as it is configured.
func Inherit(c Config, socket *os.File) (*Queue, error) {
	q := newQueue(c, socket)
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("nfq: inherit queue %d: %w", c.Number, err)
	}
	q.raw = raw
	return q, nil
}

// File is another descriptor of the queue's socket, for a process that inherits it.
func (q *Queue) File() (*os.File, error) {
	fd := -1
	var failed error
	err := q.raw.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("nfq: queue %d: %w", q.config.Number, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprint("queue ", q.config.Number)), nil
}

// pause is a time in which a queue is not read.
type pause struct{ reached, over chan struct{} }

// Pause has a queue that runs rest: when it returns, all packets that were read are
// answered, and none is read before resume is called.
func (q *Queue) Pause() (resume func()) {
	p := &pause{reached: make(chan struct{}), over: make(chan struct{})}
	r := q.run.Load()
	r.pause.Store(p)
	_ = q.conn.SetReadDeadline(past)
	select {
	case <-p.reached:
	case <-r.done:
	}
	return func() {
		r.pause.Store(nil)
		close(p.over)
	}
}

// rest waits while the queue is paused, and says whether it was.
func (r *reader) rest(con conn) bool {
	p := r.pause.Load()
	if p == nil {
		return false
	}
	close(p.reached)
	select {
	case <-p.over:
	case <-r.ctx.Done():
		return true
	}
	if err := con.SetReadDeadline(time.Time{}); err != nil {
		r.err = err
	}
	if r.ctx.Err() != nil {
		_ = con.SetReadDeadline(past) // it has ended while the deadline was set
	}
	return true
}

// Release closes our descriptor of a queue that is paused, and that another process has
// inherited: it stays bound.
func (q *Queue) Release() error {
	// First of all, for the library would unbind it when its loop ends.
	_ = q.conn.Close()
	return q.Close()
}
