package nfq

import (
	"context"
	"testing"
	"time"

	"nfqfw/internal/netnstest"
)

// handOver has another queue go on where this one stops, through its descriptor only.
func handOver(t *testing.T, q *Queue) (next *Queue, ended chan error) {
	t.Helper()
	q.Pause()
	read := q.Counters().Packets
	f, err := q.File()
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.Number = 7
	if next, err = Inherit(c, f); err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 1)
	go func() { ended <- next.Run(context.Background(), judge{handle: pass}) }()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	if n := q.Counters().Packets - read; n != 0 {
		t.Errorf("%d packets were read after the queue was handed over", n)
	}
	return next, ended
}

// Packets that come while a queue changes hands wait, and none is lost.
func TestInherit(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	q := start(t, Default(), judge{handle: pass})
	const n = 50_000
	done := make(chan struct{})
	var last *Queue
	var ends []chan error
	go func() {
		defer close(done)
		last = q
		for range 10 {
			time.Sleep(10 * time.Millisecond)
			next, ended := handOver(t, last)
			last, ends = next, append(ends, ended)
		}
	}()
	got := sendNumbers(t, client, server, n)
	<-done
	if len(got) != n {
		t.Errorf("%d of %d packets arrived", len(got), n)
	}
	if s, ok, err := Stats(7); !ok || err != nil || s.Waiting != 0 || s.QueueDropped+s.QueueUserDropped != 0 {
		t.Errorf("stats %+v, %v, %v", s, ok, err)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
	for _, ended := range ends {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if _, ok, _ := Stats(7); ok {
		t.Error("the queue is bound when the last has closed it")
	}
}

// A queue that was paused goes on.
func TestPause(t *testing.T) {
	netnstest.New(t)
	client, server := udpPair(t)
	netnstest.Run(t, queueUDP)
	q := start(t, Default(), judge{handle: pass})
	for range 3 {
		resume := q.Pause()
		if _, err := client.Write([]byte("1234")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := server.Read(make([]byte, 4)); err == nil {
			t.Error("a packet came through while the queue was paused")
		}
		resume()
		_ = server.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := server.Read(make([]byte, 4)); err != nil {
			t.Errorf("after the pause: %v", err)
		}
	}
}
