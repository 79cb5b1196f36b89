package nfq

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"nfqfw/internal/mmsg"
	"nfqfw/internal/nfnetlink"
)

// receiver reads many datagrams with one call, into buffers of its own.
type receiver struct {
	headers []mmsg.Header
	vectors []unix.Iovec
	buffers [][]byte
}

// newReceiver makes one for n datagrams of at most size octets.
func newReceiver(n, size int) *receiver {
	r := &receiver{headers: make([]mmsg.Header, n), vectors: make([]unix.Iovec, n), buffers: make([][]byte, n)}
	size = nfnetlink.Align(size)
	memory := make([]byte, n*size)
	for i := range n {
		r.buffers[i] = memory[i*size : (i+1)*size : (i+1)*size]
		r.vectors[i].Base = &r.buffers[i][0]
		r.vectors[i].SetLen(size)
		r.headers[i].Iov = &r.vectors[i]
		r.headers[i].SetIovlen(1)
	}
	return r
}

// receive reads what there is without waiting, and says how many datagrams.
func (r *receiver) receive(fd int) (int, unix.Errno) { return mmsg.Receive(fd, r.headers) }

// wait is receive, but waits until there is a datagram.
func (r *receiver) wait(fd int) (int, unix.Errno) { return mmsg.Wait(fd, r.headers) }

// datagram is the i-th of those received, valid until the next receive. One
// that was too long is cut.
func (r *receiver) datagram(i int) []byte {
	return r.buffers[i][:min(int(r.headers[i].Len), len(r.buffers[i]))]
}

// send gives messages to the kernel, which handles them before it returns. It
// tries again for some milliseconds when memory is short, since a verdict that
// is lost leaves its packet in the queue. The runtime is not told of the call: it
// would take the processor away from a thread that lets packets go their way, which
// takes tens of microseconds, and give it back.
func send(fd int, b []byte) error {
	const tries = 5
	var errno unix.Errno
	for wait := time.Millisecond; wait < 1<<tries*time.Millisecond; wait *= 2 {
		_, _, errno = unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return nil
		case unix.EAGAIN, unix.ENOBUFS, unix.EINTR:
			time.Sleep(wait)
		default:
			return errno
		}
	}
	return errno
}
