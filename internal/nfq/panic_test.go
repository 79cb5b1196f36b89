package nfq

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nfqfw/internal/nfnetlink"
	"nfqfw/internal/packet"
	"nfqfw/internal/seedtest"
)

// pairReader is a reader whose socket is one end of a pair, and the other end.
func pairReader(t *testing.T, h Handler, log *slog.Logger) (r *reader, fd, kernel int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	c := Default()
	c.Number, c.Logger = 7, log
	return newReader(context.Background(), &Queue{config: c}, h), fds[0], fds[1]
}

// appendPacket adds the message of a queued packet.
func appendPacket(b []byte, id uint32, payload []byte) []byte {
	start := len(b)
	b = appendHeader(b, msgPacket, 7)
	b = appendAttr(b, attrPacketHdr, 7)
	b = append(binary.BigEndian.AppendUint32(b, id), 0, 0, 0, 0)
	b = appendAttr(b, attrPayload, len(payload))
	b = append(b, payload...)
	b = append(b, make([]byte, nfnetlink.Align(len(b)-start)-(len(b)-start))...)
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
	return b
}

// verdicts are those that were sent, in order: what was said of which of the packets that
// wait, in the order of their numbers.
func verdicts(t *testing.T, kernel int, waiting []uint32) (ids []uint32, passed map[uint32]bool) {
	t.Helper()
	passed = make(map[uint32]bool)
	b := make([]byte, 1<<20)
	for {
		n, _, err := unix.Recvfrom(kernel, b, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return ids, passed
		}
		if err != nil {
			t.Fatal(err)
		}
		for rest := b[:n]; len(rest) > 0; {
			answer, next, ok := nfnetlink.Next(rest)
			typ := answer.Type
			if !ok || typ != msgVerdict && typ != msgVerdicts {
				t.Fatalf("not a verdict: type %#x, %v", typ, ok)
			}
			rest = next
			value := answer.Body[nfnetlink.HeaderLen+unix.SizeofNlAttr:]
			id := binary.BigEndian.Uint32(value[4:])
			at := slices.Index(waiting, id)
			if at < 0 || typ == msgVerdict && at > 0 {
				t.Fatalf("verdict of type %#x for %d, and %d wait", typ, id, waiting)
			}
			for _, id := range waiting[:at+1] { // nfqnl_recv_verdict_batch
				ids, passed[id] = append(ids, id), binary.BigEndian.Uint32(value) == 1
			}
			waiting = waiting[at+1:]
		}
	}
}

// Of random batches, at random packets of which the handler panics before or after it
// has answered, each packet gets one verdict, in order: that of the handler, and a drop
// where it panicked.
func TestOneVerdictForEachPacket(t *testing.T) {
	r := seedtest.Rand(t)
	for range 300 {
		share := r.IntN(4) // of packets that panic, in thirds
		wantPassed := make(map[uint32]bool)
		panics := 0
		handle := func(m *Message) {
			pass := r.IntN(2) == 0
			wantPassed[m.ID] = pass
			if pass {
				m.Answer(packet.Pass, 0)
			}
			if r.IntN(3) < share {
				panics++
				wantPassed[m.ID] = false
				panic("at a packet")
			}
		}
		flush := func() {
			if share > 0 && r.IntN(10) == 0 {
				panics++
				panic("at the end")
			}
		}
		reader, fd, kernel := pairReader(t, judge{handle, flush}, slog.New(slog.DiscardHandler))
		var sent []uint32
		for range 1 + r.IntN(3) {
			sent = append(sent, sendBatch(t, r, kernel, reader, fd, uint32(len(sent)))...)
		}
		got, passed := verdicts(t, kernel, sent)
		if len(got) != len(sent) {
			t.Fatalf("%d verdicts for %d packets", len(got), len(sent))
		}
		for i, id := range sent {
			if got[i] != id || passed[id] != wantPassed[id] {
				t.Fatalf("packet %d: verdict for %d, passed %v, want %v", id, got[i], passed[id], wantPassed[id])
			}
		}
		if n := reader.queue.Counters().Panics; n != uint64(panics) {
			t.Fatalf("%d panics counted, want %d", n, panics)
		}
	}
}

// sendBatch has the reader answer up to a batch of datagrams of one to three packets,
// whose numbers begin with the first.
func sendBatch(t *testing.T, r *rand.Rand, kernel int, reader *reader, fd int, first uint32) (ids []uint32) {
	t.Helper()
	for range 1 + r.IntN(20) {
		var b []byte
		for range 1 + r.IntN(3) {
			id := first + uint32(len(ids))
			ids = append(ids, id)
			b = appendPacket(b, id, make([]byte, r.IntN(100)))
		}
		if _, err := unix.Write(kernel, b); err != nil {
			t.Fatal(err)
		}
	}
	n, errno := reader.in.receive(fd)
	if errno != 0 {
		t.Fatal(errno)
	}
	reader.answer(fd, n)
	return ids
}

// The log has the header of the packet, and no more of it.
func TestPanicTellsHeader(t *testing.T) {
	var log bytes.Buffer
	reader, fd, kernel := pairReader(t, judge{handle: func(*Message) { panic("why") }}, slog.New(slog.NewTextHandler(&log, nil)))
	payload := make([]byte, 200)
	for i := range payload {
		payload[i] = byte(i)
	}
	if _, err := unix.Write(kernel, appendPacket(nil, 1, payload)); err != nil {
		t.Fatal(err)
	}
	n, _ := reader.in.receive(fd)
	reader.answer(fd, n)
	if s := log.String(); !strings.Contains(s, "cause=why") || !strings.Contains(s, "header="+hex.EncodeToString(payload[:128])+" ") {
		t.Error(s)
	}
}

// A queue that panics all the time ends, when all packets it has read are answered.
func TestManyPanicsEndTheQueue(t *testing.T) {
	reader, fd, kernel := pairReader(t, judge{handle: func(*Message) { panic("again") }}, slog.New(slog.DiscardHandler))
	var sent []uint32
	for i := range uint32(2 * maxPanics) {
		sent = append(sent, i)
		if _, err := unix.Write(kernel, appendPacket(nil, i, make([]byte, 40))); err != nil {
			t.Fatal(err)
		}
	}
	for range sent {
		if reader.err == nil {
			reader.read(fd)
		}
	}
	if reader.err == nil {
		t.Fatal("goes on")
	}
	ids, passed := verdicts(t, kernel, sent)
	if n := len(ids); n <= maxPanics || n > maxPanics+reader.queue.config.Batch || n != int(reader.queue.Counters().Packets) {
		t.Errorf("%d verdicts, want all of the batch with the panic number %d", n, maxPanics+1)
	}
	for id, pass := range passed {
		if pass {
			t.Errorf("packet %d passed", id)
		}
	}
}
