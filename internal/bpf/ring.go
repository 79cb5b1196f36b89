package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"nfqfw/internal/grant"
	"nfqfw/internal/packet"
)

// ringSize, in octets, is room for some 14,000 records: what comes in a tenth of a second
// at 20,000 connections a second.
const ringSize = 1 << 21

// Ring is where the kernel puts the packets that it records. It is not safe for
// concurrent use.
type Ring struct {
	reader *ringbuf.Reader
	header *grant.Header
	missed uint32
	raw    ringbuf.Record
	record Record
}

func newRing(m *ebpf.Map, header *grant.Header) (*Ring, error) {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, err
	}
	reader.SetDeadline(time.Unix(0, 1)) // nobody waits: who reads wants what is there
	return &Ring{reader: reader, header: header, missed: header.Missed.Load()}, nil
}

// Record is a packet that has passed. It is valid until the next.
type Record struct {
	At       time.Duration // when it passed, by the clock of Now
	Ifindex  uint32        // of the interface that it came in by; 0: it is this machine's own
	Packet   []byte        // its first octets
	Admitted bool          // its connection was, by
	Grant    packet.Grant
}

// Read hands over all records that are there.
func (r *Ring) Read(f func(*Record)) error {
	// What comes meanwhile is not waited for: others record all the time.
	for left := r.reader.AvailableBytes(); left > 0; left -= recordHeader + recordSize {
		err := r.reader.ReadInto(&r.raw)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // the rest was discarded
		}
		if err != nil {
			return fmt.Errorf("bpf: read the ring: %w", err)
		}
		r.record.parse(r.raw.RawSample)
		f(&r.record)
	}
	return nil
}

func (r *Record) parse(b []byte) {
	word := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	r.At = time.Duration(binary.LittleEndian.Uint64(b[recordTime:]))
	r.Ifindex, r.Packet = word(recordIfindex), b[recordPacket:recordPacket+min(word(recordLen), maxRecorded)]
	r.Grant = packet.Grant{Slot: word(recordSlot), Generation: word(recordGeneration)}
	r.Admitted = r.Grant.Slot < grant.Slots
}

// Now is the clock of records, which stands while the machine sleeps (CLOCK_MONOTONIC).
func Now() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // never fails for this clock
	return time.Duration(t.Nano())
}

// recordHeader is what the kernel puts before a record (BPF_RINGBUF_HDR_SZ).
const recordHeader = 8

// Missed says whether the kernel has failed to record a packet since it was last asked.
func (r *Ring) Missed() bool {
	now := r.header.Missed.Load()
	missed := now != r.missed
	r.missed = now
	return missed
}

func (r *Ring) close() error { return r.reader.Close() }
