package nfq

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A queue is its socket's: whoever has a descriptor of that can read on where another
// process has stopped. The packets that come meanwhile wait.

// Inherit goes on with a queue that another process has opened by Open, and paused. It
// closes the file, and leaves the queue as it is configured.
func Inherit(c Config, socket *os.File) (*Queue, error) {
	defer socket.Close()
	fd, err := inherit(socket)
	if err != nil {
		return nil, fmt.Errorf("nfq: inherit queue %d: %w", c.Number, err)
	}
	q, err := newQueue(c, fd)
	if err != nil {
		return nil, fmt.Errorf("nfq: inherit queue %d: %w", c.Number, err)
	}
	return q, nil
}

// inherit makes a descriptor that the runtime's poller does not know.
func inherit(socket *os.File) (fd int, err error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	return duplicate(raw)
}

// File is another descriptor of the queue's socket, for a process that inherits it. It
// is to be closed before the queue goes on: the runtime's poller may know it.
func (q *Queue) File() (*os.File, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return another(q.fd, fmt.Sprint("queue ", q.config.Number))
}

// another is another descriptor of a socket, under the socket's name.
func another(fd int, name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("nfq: %s: %w", name, os.NewSyscallError("fcntl", err))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// pause is a time in which a queue is not read.
type pause struct{ reached, over chan struct{} }

// Pause has a queue that runs rest: when it returns, all packets that were read are
// answered, and none is read before resume is called.
func (q *Queue) Pause() (resume func()) {
	p := &pause{reached: make(chan struct{}), over: make(chan struct{})}
	r := q.run.Load()
	r.pause.Store(p)
	q.wake()
	select {
	case <-p.reached:
	case <-r.done:
	}
	return func() {
		r.pause.Store(nil)
		close(p.over)
	}
}

// goesOn waits while the queue is paused, and says whether it is read after that.
func (r *reader) goesOn() bool {
	if p := r.pause.Load(); p != nil {
		close(p.reached)
		select {
		case <-p.over:
		case <-r.ctx.Done():
		}
	}
	return r.ctx.Err() == nil
}
