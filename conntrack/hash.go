package conntrack

import (
	"encoding/binary"
	"math/bits"

	"nfqfw/internal/packet"
)

// hasher spreads connections and sources over shards, and connections over the slots of
// a shard's index. It is seeded, as clients choose their tuples, and our own rather than
// the library's, whose seed cannot be chosen: a simulation must take the same turns each
// time. It is wyhash's mixing step over the words of what is hashed; both factors have a
// secret part, so that nobody can make one of them zero.
type hasher struct{ start, secret uint64 }

func newHasher(seed uint64) hasher {
	h := hasher{start: seed, secret: 0xe7037ed1a0b428db}
	return hasher{start: seed, secret: h.mix(seed, 0x8ebc6af09c88c6e3) | 1}
}

func (h hasher) mix(sum, word uint64) uint64 {
	high, low := bits.Mul64(sum^0xa0761d6478bd642f, word^h.secret)
	return high ^ low
}

func (h hasher) addr(a *packet.Addr) uint64 {
	return h.mix(h.mix(h.start, binary.LittleEndian.Uint64(a[:8])), binary.LittleEndian.Uint64(a[8:]))
}

// tuple is the same for both directions of a connection.
func (h hasher) tuple(t *packet.Tuple) uint64 {
	return h.mix(h.start, h.end(&t.Src, t.SrcPort)+h.end(&t.Dst, t.DstPort))
}

func (h hasher) end(a *packet.Addr, port uint16) uint64 { return h.mix(h.addr(a), uint64(port)) }
