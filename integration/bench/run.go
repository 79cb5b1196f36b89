package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	options
	out      io.Writer
	samples  samples
	failures []string
	rounds   int // that were done
}

// measure checks the peers and measures them, round by round, until all rounds are done
// or there is no time for another.
func (b *bench) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.budget)
	defer cancel()
	start := time.Now()
	if err := b.checkPeers(ctx); err != nil {
		return err
	}
	var longest time.Duration
	for round := 1; round <= b.options.rounds; round++ {
		if spent := time.Since(start); spent+longest > b.budget {
			fmt.Fprintf(b.out, "no time for round %d of %d: %v of %v are spent\n", round, b.options.rounds, spent.Round(time.Second), b.budget)
			break
		}
		began := time.Now()
		err := b.round(ctx, round)
		if err != nil && b.rounds > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			fmt.Fprintf(b.out, "round %d is left out: %v\n", round, err)
			b.samples = slices.DeleteFunc(b.samples, func(k sample) bool { return k.Round == round })
			return nil
		}
		if err != nil {
			return err
		}
		b.rounds = round
		longest = max(longest, time.Since(began))
	}
	return nil
}

// checkPeers holds that each peer that is measured does its work.
func (b *bench) checkPeers(ctx context.Context) error {
	for _, p := range peers {
		if !slices.ContainsFunc(b.scenarios, func(sc scenario) bool { return slices.Contains(sc.peers, p.key) }) || !b.asked(p.key) {
			continue
		}
		if err := selfCheck(ctx, b.binary, p); err != nil {
			return interrupted(ctx, err)
		}
		fmt.Fprintf(b.out, "checked %s\n", p.name)
	}
	return nil
}

// asked tells whether a peer was not left out.
func (o *options) asked(key string) bool {
	return len(o.peers) == 0 || slices.Contains(o.peers, key)
}

// round puts every load onto every peer, once. All peers of a scenario come close one
// after the other, and none always behind the same one.
func (b *bench) round(ctx context.Context, round int) error {
	for _, sc := range b.scenarios {
		list := slices.DeleteFunc(slices.Clone(sc.peers), func(key string) bool { return !b.asked(key) })
		for turn := range list {
			p, err := find(list[(turn+round-1)%len(list)])
			if err != nil {
				return err
			}
			found, err := b.one(ctx, sc, p)
			if ctx.Err() != nil {
				return interrupted(ctx, err)
			}
			b.note(round, sc, p, found, err)
		}
		b.samples.addOver(sc, round)
	}
	return nil
}

// one makes one measurement.
func (b *bench) one(ctx context.Context, sc scenario, p peer) (found values, err error) {
	st, err := openStage(ctx, b.binary, b.size, p, limit)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := settle(ctx, b.size.quiet); err != nil {
		return nil, err
	}
	return sc.run(ctx, st)
}

// note keeps what was found, and tells of it. A measurement that fails is missing.
func (b *bench) note(round int, sc scenario, p peer, found values, err error) {
	where := fmt.Sprintf("round %d, %s, %s", round, sc.key, p.name)
	if err != nil {
		b.failures = append(b.failures, fmt.Sprintf("%s: %v", where, err))
		fmt.Fprintf(b.out, "%s: FAILED: %v\n", where, err)
		return
	}
	b.samples = append(b.samples, sample{round, sc.key, p.key, found})
	var words []string
	for _, m := range sc.metrics {
		if v, ok := found[m.key]; ok {
			words = append(words, fmt.Sprintf("%s %s", m.title, number(v)))
		}
	}
	fmt.Fprintf(b.out, "%s: %s\n", where, strings.Join(words, "; "))
}

// interrupted says of an error that comes of the end of ctx what has ended it.
func interrupted(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errors.New("out of time")
	case ctx.Err() != nil:
		return errors.New("interrupted")
	}
	return err
}
