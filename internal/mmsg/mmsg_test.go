package mmsg

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// laidOut is n headers with a buffer each.
func laidOut(n int) ([]Header, [][]byte) {
	headers, buffers, vectors := make([]Header, n), make([][]byte, n), make([]unix.Iovec, n)
	for i := range n {
		buffers[i] = make([]byte, 8)
		vectors[i].Base = &buffers[i][0]
		vectors[i].SetLen(len(buffers[i]))
		headers[i].Iov = &vectors[i]
		headers[i].SetIovlen(1)
	}
	return headers, buffers
}

// What is sent is read, as many at a time as there are, and nobody waits who is not to.
func TestSendAndReceive(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	in, read := laidOut(4)
	if n, errno := Receive(fds[1], in); errno != unix.EAGAIN {
		t.Errorf("with nothing there: %d, %v", n, errno)
	}
	out, sent := laidOut(3)
	for i := range sent {
		sent[i][0] = byte(i)
	}
	if n, errno := Send(fds[0], out[:1]); n != 1 || errno != 0 {
		t.Errorf("sent %d, %v", n, errno)
	}
	time.AfterFunc(20*time.Millisecond, func() {
		if n, errno := SendAll(fds[0], out[1:]); n != 2 || errno != 0 {
			t.Errorf("sent %d, %v", n, errno)
		}
	})
	got := 0
	for got < len(sent) {
		n, errno := Wait(fds[1], in)
		if errno != 0 {
			t.Fatal(errno)
		}
		for i := range n {
			if in[i].Len != 8 || read[i][0] != byte(got) {
				t.Errorf("datagram %d: %d octets, the first %d", got, in[i].Len, read[i][0])
			}
			got++
		}
	}
	if n, errno := Receive(fds[1], in); errno != unix.EAGAIN {
		t.Errorf("with nothing left: %d, %v", n, errno)
	}
}
