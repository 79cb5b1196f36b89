package daemon

import (
	"nfqfw/internal/control"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

// traffic is what the kernel's conntrack has counted of connections. For a few it
// asks for the entry of each; for many it reads the table once, which takes half
// the time and some hundred octets for each entry of ours.
type traffic struct {
	table  *offload.Table
	dumped map[packet.Tuple]counted
}

type counted struct{ original, reply control.Counter }

func openTraffic(many bool) (*traffic, error) {
	table, err := offload.Open()
	if err != nil {
		return nil, err
	}
	t := &traffic{table: table}
	if many {
		if err := t.dump(); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

func (t *traffic) close() { _ = t.table.Close() }

// dump reads the entries with a connmark of ours. Each of packet.MarkTrack,
// MarkOpening and MarkClear has one of these two bits.
func (t *traffic) dump() error {
	t.dumped = make(map[packet.Tuple]counted)
	for _, bit := range []packet.Mark{packet.MarkTrack, packet.MarkClear} {
		err := t.table.Dump(bit, func(tuple packet.Tuple, e *offload.Entry) {
			if e.HasTraffic {
				t.dumped[tuple] = countedBy(e)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func countedBy(e *offload.Entry) counted {
	return counted{
		control.Counter{Packets: e.Original.Packets, Bytes: e.Original.Octets},
		control.Counter{Packets: e.Reply.Packets, Bytes: e.Reply.Octets},
	}
}

// of is what was counted of a connection from client to server, and back. A
// connection whose entry is gone, or was made while the kernel did not count, has
// none; one whose entry came or changed its mark during the dump is asked for.
func (t *traffic) of(tuple packet.Tuple) (c counted, ok bool) {
	if c, ok = t.dumped[tuple]; ok {
		return c, true
	}
	if c, ok = t.dumped[tuple.Reverse()]; ok {
		return counted{c.reply, c.original}, true
	}
	found, e, err := t.table.Query(tuple)
	if err != nil || found == packet.KernelAbsent || !e.HasTraffic {
		return counted{}, false
	}
	if c = countedBy(&e); e.Reverse {
		c = counted{c.reply, c.original}
	}
	return c, true
}
