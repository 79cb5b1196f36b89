package offload

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfqfw/internal/netnstest"
	"nfqfw/internal/packet"
)

// A socket that the kernel could not answer for want of room is good for the next
// requests: what is left of earlier answers, and ENOBUFS, are read over.
func TestOverrun(t *testing.T) {
	netnstest.New(t)
	table := open(t)
	mustCreate(t, table, order(tuples[0]))
	if err := unix.SetsockoptInt(table.socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		overrun(t, table)
		began := time.Now()
		found, _, err := table.Query(tuples[0])
		if err != nil {
			// The answer was the one that was lost.
			found, _, err = table.Query(tuples[0])
		}
		if err != nil || found != packet.KernelPresent {
			t.Fatalf("query after an overrun: %v, %v", found, err)
		}
		if took := time.Since(began); took > (answerTimeout+1)*time.Second {
			t.Errorf("took %v", took)
		}
		overrun(t, table)
		n := 0
		for tries := 0; n == 0 && tries < 2; tries++ {
			if err = table.Dump(0, func(packet.Tuple, *Entry) { n++ }); err != nil {
				n = 0
			}
		}
		if err != nil || n != 1 {
			t.Fatalf("dump after an overrun: %d entries, %v", n, err)
		}
	}
}

// overrun sends requests and reads no answer until the kernel has no room for one.
func overrun(t *testing.T, table *Table) {
	t.Helper()
	for range 20 {
		table.out.begin(msgGet, 0, table.socket.next(), unix.AF_INET)
		table.out.tuple(ctaTupleOrig, &tuples[0])
		if _, err := unix.Write(table.socket.fd, table.out.end()); err != nil {
			t.Fatal(err)
		}
	}
}
