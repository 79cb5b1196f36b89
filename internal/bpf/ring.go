package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"nfqfw/internal/grant"
)

// ringSize, in octets, is room for some 16,000 records: what comes in a tenth of a second
// at 20,000 connections a second.
const ringSize = 1 << 21

// Ring is where the kernel puts the packets that it records. It is not safe for
// concurrent use.
type Ring struct {
	reader *ringbuf.Reader
	first  *grant.Slot
	missed uint32
	record ringbuf.Record
}

func newRing(m *ebpf.Map, first *grant.Slot) (*Ring, error) {
	reader, err := ringbuf.NewReader(m)
	if err != nil {
		return nil, err
	}
	reader.SetDeadline(time.Unix(0, 1)) // nobody waits: who reads wants what is there
	return &Ring{reader: reader, first: first, missed: first.Missed.Load()}, nil
}

// Read hands over all records that are there: the index of the interface that the packet
// came in by, 0 for this machine's own, and its first octets, which are valid until f
// returns.
func (r *Ring) Read(f func(ifindex uint32, packet []byte)) error {
	// What comes meanwhile is not waited for: others record all the time.
	for left := r.reader.AvailableBytes(); left > 0; left -= recordHeader + recordSize {
		err := r.reader.ReadInto(&r.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil // the rest was discarded
		}
		if err != nil {
			return fmt.Errorf("bpf: read the ring: %w", err)
		}
		b := r.record.RawSample
		n := binary.LittleEndian.Uint32(b[recordLen:])
		f(binary.LittleEndian.Uint32(b[recordIfindex:]), b[recordPacket:recordPacket+min(int(n), maxRecorded)])
	}
	return nil
}

// recordHeader is what the kernel puts before a record (BPF_RINGBUF_HDR_SZ).
const recordHeader = 8

// Missed says whether the kernel has failed to record a packet since it was last asked.
func (r *Ring) Missed() bool {
	now := r.first.Missed.Load()
	missed := now != r.missed
	r.missed = now
	return missed
}

func (r *Ring) close() error { return r.reader.Close() }
