package conntrack

import "time"

// recent remembers when things happened: the last ones, in a ring, as many as a
// rate needs to be judged exactly.
type recent struct {
	times []time.Duration // never falls from the oldest to the newest
	next  int             // where the next one goes
	count int
}

// last is when the nth last one happened, from 1 to count.
func (r *recent) last(n int) time.Duration {
	return r.times[(r.next-n+len(r.times))%len(r.times)]
}

// full says whether as many as the rate allows have happened in (now-Window, now], with
// those that may happen yet.
func (r *recent) full(rate Rate, yet int, now time.Duration) bool {
	n := int(rate.Count) - yet
	return n <= 0 || r.count >= n && r.last(n) > r.after(now)-rate.Window
}

// after is a time that is not before the newest: two who read the clock one after the
// other may come here in the other order.
func (r *recent) after(now time.Duration) time.Duration {
	if r.count > 0 {
		return max(now, r.last(1))
	}
	return now
}

// room is how many more may happen now, if no more than half of what the rate allows has
// happened in (now-Window, now]; else it is 0.
func (r *recent) room(rate Rate, now time.Duration) int {
	half := int(rate.Count+1) / 2
	if r.count >= half && r.last(half) > r.after(now)-rate.Window {
		return 0
	}
	return int(rate.Count) - half
}

// add notes that one has happened. Those of the last keep are remembered.
func (r *recent) add(now time.Duration, keep int) {
	now = r.after(now)
	if r.count == len(r.times) && r.count < keep {
		r.grow(min(max(2*r.count, 4), keep))
	}
	r.times[r.next] = now
	r.next = (r.next + 1) % len(r.times)
	r.count = min(r.count+1, len(r.times))
}

func (r *recent) grow(size int) {
	times := make([]time.Duration, size)
	for i := range r.count {
		times[i] = r.last(r.count - i)
	}
	r.times, r.next = times, r.count
}

// within is how many have happened in (now-window, now], as far as is remembered.
func (r *recent) within(window, now time.Duration) int {
	begin := r.after(now) - window
	n := 0
	for n < r.count && r.last(n+1) > begin {
		n++
	}
	return n
}
