package rules

import "math/bits"

// sets are sets of rules, by their places from 0. They share what they have in
// common, so that the very many sets of neighbouring addresses, which differ by a rule
// or two, take little room: a set is a tree of 64 rules a leaf, and equal trees are
// one. The empty tree is 0 at every level.
type sets struct {
	levels int // of branches, the same for all sets
	leaves []uint64
	nodes  []node

	// Used while sets are made:
	leaf map[uint64]set
	node map[node]set
}

// node is where a tree branches. At a branch that is not in some there is nothing.
type node struct {
	below [branches]set
	some  uint16
}

// set is a tree: the place of its root in nodes, or in leaves at level 0.
type set uint32

const (
	branches  = 16
	leafBits  = 6
	levelBits = 4
)

// newSets makes room for sets of n rules.
func newSets(n int) sets {
	s := sets{
		leaves: []uint64{0}, leaf: map[uint64]set{0: 0},
		nodes: make([]node, 1), node: map[node]set{{}: 0},
	}
	for n > 1<<(leafBits+s.levels*levelBits) {
		s.levels++
	}
	return s
}

// flip is the set less those of the rules that it has, with those that it has not.
// The rules are in order; one that is there twice is left as it was.
func (s *sets) flip(root set, rules []int) set { return s.flipAt(s.levels, root, rules) }

func (s *sets) flipAt(level int, root set, rules []int) set {
	if level == 0 {
		word := s.leaves[root]
		for _, r := range rules {
			word ^= 1 << (r % (1 << leafBits))
		}
		return intern(s.leaf, &s.leaves, word)
	}
	node := s.nodes[root]
	for len(rules) > 0 {
		n, b := 0, branchOf(level, rules[0])
		for n < len(rules) && branchOf(level, rules[n]) == b {
			n++
		}
		node.put(b, s.flipAt(level-1, node.below[b], rules[:n]))
		rules = rules[n:]
	}
	return intern(s.node, &s.nodes, node)
}

func (n *node) put(branch int, below set) {
	n.below[branch] = below
	n.some &^= 1 << branch
	if below != 0 {
		n.some |= 1 << branch
	}
}

func branchOf(level, rule int) int { return rule >> (leafBits + (level-1)*levelBits) % branches }

func intern[T comparable](known map[T]set, list *[]T, v T) set {
	id, ok := known[v]
	if !ok {
		id = set(len(*list))
		known[v] = id
		*list = append(*list, v)
	}
	return id
}

// made forgets what is needed to make more sets.
func (s *sets) made() { s.leaf, s.node = nil, nil }

// meet are the sets that a rule must be in.
type meet [5]set

// first looks for the first rule in all sets for which is says yes, from the front or
// from the back; without one it is -1.
func (s *sets) first(m meet, backwards bool, is func(rule int) bool) int {
	return s.firstAt(s.levels, 0, m, backwards, is)
}

// firstAt looks in one branch of each set, which is at the same place in all: so many
// branches of that level are before it.
func (s *sets) firstAt(level, before int, m meet, backwards bool, is func(int) bool) int {
	if level == 0 {
		return s.firstIn(before<<leafBits, m, backwards, is)
	}
	some := ^uint16(0)
	for _, root := range m {
		some &= s.nodes[root].some
	}
	for rest := uint64(some); rest != 0; {
		b := endBit(rest, backwards)
		rest &^= 1 << b
		var below meet
		for i, root := range m {
			below[i] = s.nodes[root].below[b]
		}
		if r := s.firstAt(level-1, before<<levelBits+b, below, backwards, is); r >= 0 {
			return r
		}
	}
	return -1
}

func (s *sets) firstIn(before int, m meet, backwards bool, is func(int) bool) int {
	word := ^uint64(0)
	for _, root := range m {
		word &= s.leaves[root]
	}
	for word != 0 {
		b := endBit(word, backwards)
		word &^= 1 << b
		if is(before + b) {
			return before + b
		}
	}
	return -1
}

// endBit is the place of the first bit that is set, or of the last.
func endBit(word uint64, backwards bool) int {
	if backwards {
		return bits.Len64(word) - 1
	}
	return bits.TrailingZeros64(word)
}
