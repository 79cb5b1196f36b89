package conntrack

import (
	"encoding/binary"
	"math/bits"

	"nfqfw/internal/packet"
)

// hash spreads keys over shards. It is seeded, as clients choose their tuples,
// and our own rather than the library's, whose seed cannot be chosen: a
// simulation must take the same turns each time. It is wyhash's mixing step
// over the words of the key.
type hash uint64

func (h hash) word(w uint64) hash {
	high, low := bits.Mul64(uint64(h)^0xa0761d6478bd642f, w^0xe7037ed1a0b428db)
	return hash(high ^ low)
}

func (h hash) addr(a *packet.Addr) hash {
	return h.word(binary.LittleEndian.Uint64(a[:8])).word(binary.LittleEndian.Uint64(a[8:]))
}

func (h hash) key(k *packet.Key) uint64 {
	return uint64(h.addr(&k.Src).addr(&k.Dst).word(uint64(k.SrcPort)<<16 | uint64(k.DstPort)))
}
