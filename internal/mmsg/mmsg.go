// Package mmsg reads and sends many datagrams with one call: recvmmsg(2) and sendmmsg(2),
// which x/sys/unix does not wrap.
//
// It only makes the calls. Where octets are and where they go the caller has laid out in
// the headers, and keeps alive. It refuses to retry: how many datagrams there were, and
// the kernel's error, are the caller's to judge. The runtime is not told of a call that
// does not wait: it would take the processor away from the thread, and give it back.
package mmsg

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Header is struct mmsghdr: a datagram, and how many of its octets were read or sent.
type Header struct {
	unix.Msghdr
	Len uint32
}

// Receive reads the datagrams that are there, and does not wait. There must be a header.
func Receive(fd int, headers []Header) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])),
		uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// Wait is Receive, but waits for the first datagram, if the descriptor blocks.
func Wait(fd int, headers []Header) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])),
		uintptr(len(headers)), unix.MSG_WAITFORONE, 0, 0)
	return int(n), errno
}

// Send sends datagrams as far as there is room, and does not wait. An error is about the
// first of them. There must be a header.
func Send(fd int, headers []Header) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])),
		uintptr(len(headers)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

// SendAll is Send, but waits for room, if the descriptor blocks.
func SendAll(fd int, headers []Header) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&headers[0])),
		uintptr(len(headers)), 0, 0, 0)
	return int(n), errno
}
