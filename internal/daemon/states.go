package daemon

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"nfqfw/conntrack"
	"nfqfw/internal/control"
	"nfqfw/internal/engine"
)

func (d *daemon) handlers() map[string]control.Handler {
	list := map[string]control.Handler{
		"info": d.info, "states": d.states, "sources": d.sources, "rules": d.rules, "timeouts": d.timeouts,
		"memory": d.memory, "refusals": d.refusals, "kill": d.answerKill, "reload": d.answerReload,
		"table": d.answerTable, control.Takeover: d.answerTakeover, "tables": d.listTables,
	}
	for command, h := range list {
		list[command] = func(ctx context.Context, raw json.RawMessage, send func(any) error) error {
			d.change(d.copies.take) // the answer knows what has closed before the question
			return h(ctx, raw, send)
		}
	}
	return list
}

// states answers "nfqfw states".
func (d *daemon) states(ctx context.Context, raw json.RawMessage, send func(any) error) error {
	var args control.StatesArgs
	if err := parseArgs("states", raw, &args); err != nil {
		return err
	}
	if err := d.knowRules("states", args.Filter.Rules); err != nil {
		return err
	}
	var kernel *traffic
	if args.Counters {
		var err error
		if kernel, err = openTraffic(d.many(&args.Filter)); err != nil {
			return fmt.Errorf("states: %w", err)
		}
		defer kernel.close()
	}
	out := control.NewStateSender(&args, send)
	err := d.eachState(ctx, &args.Filter, func(l *engine.Listed) error {
		s := d.listed(l)
		if kernel != nil && l.Offloaded {
			if c, ok := kernel.of(l.Tuple); ok {
				s.Original, s.Reply = &c.original, &c.reply
			}
		}
		return out.Send(s)
	})
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("states: %w", err)
	}
	return nil
}

// parseArgs reads a command's arguments; none are the zero value.
func parseArgs(command string, raw json.RawMessage, args any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, args); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// errStopping ends a listing with the daemon.
var errStopping = errors.New("the daemon is stopping")

// eachState calls f for every state that the filter chooses.
func (d *daemon) eachState(ctx context.Context, f *control.StateFilter, call func(*engine.Listed) error) error {
	return d.engine.States(d.now(), func(l *engine.Listed) error {
		if ctx.Err() != nil {
			return errStopping
		}
		if !d.chooses(f, &l.State, l.RuleName) {
			return nil
		}
		return call(l)
	})
}

func (d *daemon) chooses(f *control.StateFilter, s *conntrack.State, rule string) bool {
	return f.State.Matches(s.Dst.State, s.Src.State) &&
		(len(f.Rules) == 0 || slices.Contains(f.Rules, rule)) &&
		control.Within(f.Source, s.Tuple.Src.Netip()) &&
		f.Dest.Holds(s.Tuple.Destination()) &&
		(f.Interface == "" || f.Interface == d.interfaces.name(s.InDev))
}

// fewStates are so few that to ask the kernel for the entry of each is cheaper than
// to have it list them all.
const fewStates = 1000

// many says whether the filter chooses more than a few states.
func (d *daemon) many(f *control.StateFilter) bool {
	n := 0
	err := d.engine.States(d.now(), func(l *engine.Listed) error {
		if d.chooses(f, &l.State, l.RuleName) {
			n++
		}
		if n > fewStates {
			return errStopping
		}
		return nil
	})
	return err != nil
}

// identity is a state's number in 16 hexadecimal digits.
func identity(id uint64) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], id)
	return hex.EncodeToString(b[:])
}

func (d *daemon) listed(l *engine.Listed) *control.State {
	s := &control.State{
		ID: identity(l.ID), Interface: d.interfaces.name(l.InDev), Protocol: "tcp",
		Source: listedPeer(&l.Src, 0), Dest: listedPeer(&l.Dst, uint32(l.SeqDiff)),
		State: l.Dst.State.String() + ":" + l.Src.State.String(), Counts: l.Counting, Proxied: l.Proxied,
		Rule: l.RuleName, Number: uint32(l.RuleNumber), Timeout: l.Timeout.String(),
		Age: seconds(l.Age), Expires: seconds(l.ExpiresIn),
	}
	if l.ShakingHands() {
		s.State = l.Src.State.String()
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
