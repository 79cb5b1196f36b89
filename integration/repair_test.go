package integration

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// numbers are the sequence numbers a socket would use next.
func numbers(c *net.TCPConn) (seq, ack uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { seq, ack, inner = repairNumbers(int(fd)) })
	return seq, ack, errors.Join(err, inner)
}

func repairNumbers(fd int) (seq, ack uint32, err error) {
	set := func(option, value int) {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value))
	}
	get := func() uint32 {
		v, e := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_QUEUE_SEQ)
		err = errors.Join(err, e)
		return uint32(v)
	}
	const recvQueue, sendQueue = 1, 2 // TCP_RECV_QUEUE, TCP_SEND_QUEUE
	set(unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
	set(unix.TCP_REPAIR_QUEUE, sendQueue)
	seq = get()
	set(unix.TCP_REPAIR_QUEUE, recvQueue)
	ack = get()
	set(unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP) // and no word to the other side
	return seq, ack, err
}
