package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
	"nfqfw/internal/offload"
	"nfqfw/internal/packet"
)

func (d *daemon) handlers() map[string]control.Handler {
	return map[string]control.Handler{"info": d.info, "states": d.states}
}

// states answers "nfqfw states".
func (d *daemon) states(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.StatesArgs
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &args); err != nil {
			return fmt.Errorf("states: %w", err)
		}
	}
	var table *offload.Table
	if args.Counters {
		var err error
		if table, err = offload.Open(); err != nil {
			return fmt.Errorf("states: %w", err)
		}
		defer table.Close()
	}
	return d.engine.States(d.now(), func(l *engine.Listed) error {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("states: the daemon is stopping")
		}
		s := d.listed(l)
		if table != nil && l.Offloaded {
			count(table, l.Tuple, s)
		}
		return send(s)
	})
}

// count adds the kernel's counters. A connection whose entry is gone meanwhile,
// or was made while the kernel did not count, is shown without.
func count(table *offload.Table, t packet.Tuple, s *control.State) {
	found, e, err := table.Query(t)
	if err != nil || found == packet.KernelAbsent || !e.HasTraffic {
		return
	}
	s.Original = &control.Counter{Packets: e.Original.Packets, Bytes: e.Original.Octets}
	s.Reply = &control.Counter{Packets: e.Reply.Packets, Bytes: e.Reply.Octets}
}

func (d *daemon) listed(l *engine.Listed) *control.State {
	s := &control.State{
		ID: fmt.Sprintf("%016x", l.ID), Interface: d.interfaces.link(l.InDev).name, Protocol: "tcp",
		Source: listedPeer(&l.Src, 0), Dest: listedPeer(&l.Dst, uint32(l.SeqDiff)),
		State: l.Dst.State.String() + ":" + l.Src.State.String(), Counts: l.Counting, Proxied: l.Proxied,
		Rule: l.RuleName, Number: uint32(l.RuleNumber), Timeout: l.Timeout.String(),
		Age: l.Age.Round(time.Millisecond).Seconds(), Expires: l.ExpiresIn.Round(time.Millisecond).Seconds(),
	}
	if l.ShakingHands() {
		s.State = l.Src.State.String()
	}
	if s.Interface == "" {
		s.Interface = "all"
	}
	s.Source.Address, s.Source.Port = l.Tuple.Src.Netip(), l.Tuple.SrcPort
	s.Dest.Address, s.Dest.Port = l.Tuple.Dst.Netip(), l.Tuple.DstPort
	return s
}

func listedPeer(p *conntrack.Peer, seqDiff uint32) control.Peer {
	out := control.Peer{State: p.State.String(), SeqLo: uint32(p.SeqLo), SeqHi: uint32(p.SeqHi), SeqDiff: seqDiff}
	if p.HasWScale {
		out.WScale = &p.WScale
	}
	return out
}
