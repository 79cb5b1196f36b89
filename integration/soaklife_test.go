package integration

import (
	"fmt"
	"slices"
)

// life is one daemon's, in samples of what it holds.
type life struct {
	pid     int
	samples []Footprint
}

// warmUp is the share of a life's samples after which it has all it needs.
const warmUp = 4

// sample notes what the daemon that runs holds of the system.
func (s *soak) sample() {
	s.replaced.RLock()
	defer s.replaced.RUnlock()
	pid := s.fw.Pid()
	p, err := FootprintOf(pid)
	if err != nil {
		return // it has just ended
	}
	if n := len(s.lives); n == 0 || s.lives[n-1].pid != pid {
		s.lives = append(s.lives, &life{pid: pid})
	}
	if info, err := s.fw.Info(s.t.Context()); err == nil {
		p.Goroutines = info.Goroutines
		last := s.lives[len(s.lives)-1]
		last.samples = append(last.samples, p)
	}
}

// thirds are the medians of the first and of the last third of the life after its warm-up.
func (l *life) thirds() (first, last Footprint) {
	warm := l.samples[len(l.samples)/warmUp:]
	third := max(len(warm)/3, 1)
	return medianFootprint(warm[:third]), medianFootprint(warm[len(warm)-third:])
}

func medianFootprint(list []Footprint) (m Footprint) {
	of := func(field func(Footprint) int) int {
		var values []int
		for _, p := range list {
			values = append(values, field(p))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return Footprint{
		of(func(p Footprint) int { return p.Descriptors }), of(func(p Footprint) int { return p.Threads }),
		of(func(p Footprint) int { return p.Kilobytes }), of(func(p Footprint) int { return p.Goroutines }),
	}
}

func (l *life) drift() string {
	first, last := l.thirds()
	return fmt.Sprintf("in %d samples of one daemon: RSS %+d kB of %d, goroutines %+d of %d, threads %+d of %d, descriptors %+d of %d", len(l.samples),
		last.Kilobytes-first.Kilobytes, first.Kilobytes, last.Goroutines-first.Goroutines, first.Goroutines,
		last.Threads-first.Threads, first.Threads, last.Descriptors-first.Descriptors, first.Descriptors)
}

// grows says what the daemon has more of in the end than in the beginning.
func (l *life) grows() error {
	first, last := l.thirds()
	const spareGoroutines = 4 // of commands that are being answered
	descriptors, threads, kilobytes := spareFootprint()
	if last.Descriptors > first.Descriptors+descriptors || last.Goroutines > first.Goroutines+spareGoroutines ||
		last.Threads > first.Threads+threads || last.Kilobytes > first.Kilobytes+kilobytes {
		return fmt.Errorf("it grows: %s", l.drift())
	}
	return nil
}
