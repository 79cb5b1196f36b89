package sim

import (
	"container/heap"
	"time"
)

// clock is virtual time: it jumps from one event to the next.
type clock struct {
	now    time.Duration
	events events
	serial int
}

type event struct {
	at     time.Duration
	serial int // events of one time happen in the order they were planned
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// after plans do.
func (c *clock) after(d time.Duration, do func()) {
	c.serial++
	heap.Push(&c.events, event{c.now + d, c.serial, do})
}

// run lets time pass until the end, or until nothing is planned.
func (c *clock) run(end time.Duration) {
	for len(c.events) > 0 && c.events[0].at <= end {
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	c.now = end
}
