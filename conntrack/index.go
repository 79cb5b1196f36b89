package conntrack

// index tells the places of states by the hashes of their tuples. It is a hash table with
// open addressing: a look-up takes one line of memory, as a rule, and another for the
// state. Go's map would hold the tuples a second time, and take three times the room.
type index struct {
	slots []slot // as many as a power of two, and some always free
	count int
}

// slot is an entry. Its tag, a part of the hash, keeps look-ups from states that are
// not theirs, and says where the entry belongs.
type slot struct {
	tag   uint32
	place uint32 // plus one; 0: free
}

// minSlots is how many an index begins with.
const minSlots = 8

func newIndex() index { return index{slots: make([]slot, minSlots)} }

// tagOf is the part of a hash that the choice of the shard has no part in.
func tagOf(hash uint64) uint32 { return uint32(hash >> 32) }

func (x *index) mask() uint32 { return uint32(len(x.slots) - 1) }

// add makes an entry. There must be none of this place.
func (x *index) add(tag, place uint32) {
	if 4*(x.count+1) > 3*len(x.slots) {
		x.grow()
	}
	x.count++
	x.put(slot{tag, place + 1})
}

// put takes the first free slot from where the entry belongs.
func (x *index) put(e slot) {
	i := e.tag & x.mask()
	for x.slots[i].place != 0 {
		i = (i + 1) & x.mask()
	}
	x.slots[i] = e
}

func (x *index) grow() {
	old := x.slots
	x.slots = make([]slot, 2*len(old))
	for _, e := range old {
		if e.place != 0 {
			x.put(e)
		}
	}
}

// remove removes the entry of a place. What follows closes the gap, so that no look-up
// ends there.
func (x *index) remove(tag, place uint32) {
	gap := tag & x.mask()
	for x.slots[gap].place != place+1 {
		gap = (gap + 1) & x.mask()
	}
	for i := (gap + 1) & x.mask(); x.slots[i].place != 0; i = (i + 1) & x.mask() {
		if away := (i - x.slots[i].tag) & x.mask(); away >= (i-gap)&x.mask() {
			x.slots[gap], gap = x.slots[i], i
		}
	}
	x.slots[gap] = slot{}
	x.count--
}
