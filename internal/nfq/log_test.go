package nfq

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"nfqfw/internal/netnstest"
)

const logUDP = "iptables -w -A OUTPUT -p udp -j NFLOG --nflog-group 7"

// openLog opens group 7 until the test ends.
func openLog(t *testing.T, c Config) *Log {
	t.Helper()
	c.Number = 7
	l, err := OpenLog(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// numbers are those of sendNumbers whose copies are there.
func numbers(t *testing.T, l *Log) (list []int, err error) {
	t.Helper()
	err = l.Read(func(m *Message) {
		if m.Total < len(m.Payload) {
			t.Errorf("%d octets of %d", len(m.Payload), m.Total)
		}
		list = append(list, number(m))
	})
	return list, err
}

// Packets pass at once, and their copies are there as soon as they have.
func TestLog(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, logUDP)
	l := openLog(t, Default())
	for _, n := range []int{0, 1, 1000} {
		arrived := sendNumbers(t, client, server, n)
		copies, err := numbers(t, l)
		if len(arrived) != n || !slices.Equal(copies, arrived) || err != nil {
			t.Errorf("%d arrived, and %d copies of %d packets; %v", len(arrived), len(copies), n, err)
		}
	}
}

// A group is opened while packets are copied to it, and these come before the answer.
func TestOpenLogUnderLoad(t *testing.T) {
	netnstest.New(t)
	client, _ := udpPair(t)
	netnstest.Run(t, logUDP)
	var over atomic.Bool
	var sending sync.WaitGroup
	sending.Go(func() {
		for b := []byte{0, 0, 0, 0}; !over.Load(); {
			_, _ = client.Write(b)
		}
	})
	for i := range 2000 {
		l, err := OpenLog(Config{Number: 7, CopyRange: 64, Batch: 1, ReadBuffer: 1 << 20})
		if err != nil {
			t.Errorf("try %d: %v", i, err)
			break
		}
		_ = l.Close()
	}
	over.Store(true)
	sending.Wait()
}

// Who has missed something is told once, and goes on.
func TestLogOverrun(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, logUDP)
	c := Default()
	c.ReadBuffer = 1 << 16
	l := openLog(t, c)
	const n = 1000
	for range 2 {
		if arrived := sendNumbers(t, client, server, n); len(arrived) != n {
			t.Errorf("%d of %d packets arrived", len(arrived), n)
		}
		copies, err := numbers(t, l)
		if len(copies) == 0 || len(copies) == n || !errors.Is(err, ErrMissed) {
			t.Errorf("%d copies, %v", len(copies), err)
		}
		sendNumbers(t, client, server, 1)
		if copies, err := numbers(t, l); len(copies) != 1 || err != nil {
			t.Errorf("then: %d copies, %v", len(copies), err)
		}
	}
}

// Copies that come while a group changes hands wait, and are read once.
func TestInheritLog(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, logUDP)
	l := openLog(t, Default())
	if other, err := OpenLog(Config{Number: 7, Batch: 1}); !errors.Is(err, ErrTaken) {
		t.Fatalf("a group was bound twice: %v, %v", other, err)
	}
	sendNumbers(t, client, server, 10)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.Number = 7
	next := InheritLog(c, f)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	sendNumbers(t, client, server, 10)
	if copies, err := numbers(t, next); len(copies) != 20 || err != nil {
		t.Errorf("%d copies, %v", len(copies), err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	openLog(t, Default())
}

func TestReadLogAllocatesNothing(t *testing.T) {
	netnstest.New(t)
	client, _ := udpPair(t)
	netnstest.Run(t, logUDP)
	l := openLog(t, Default())
	read := 0
	note := func(*Message) { read++ }
	b := []byte{0, 0, 0, 0}
	allocs := testing.AllocsPerRun(100, func() {
		_, _ = client.Write(b)
		_ = l.Read(note)
	})
	if read < 100 || allocs != 0 {
		t.Errorf("%d copies, %v allocations", read, allocs)
	}
}
