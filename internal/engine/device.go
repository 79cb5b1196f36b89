package engine

import "nfqfw/conntrack"

// FollowDevices has states follow interfaces that were made anew and have other
// indexes now: moved are these, by the old ones.
func (e *Engine) FollowDevices(moved map[uint32]uint32) {
	for i := range e.table.Shards() {
		e.followIn(i, moved)
	}
}

func (e *Engine) followIn(i int, moved map[uint32]uint32) {
	sh := e.table.LockShard(i)
	defer sh.Unlock()
	sh.Each(func(s *conntrack.State) {
		s.InDev = follow(s.InDev, moved)
		s.ReplyDev = follow(s.ReplyDev, moved)
	})
}

func follow(index uint32, moved map[uint32]uint32) uint32 {
	if to, ok := moved[index]; ok {
		return to
	}
	return index
}
