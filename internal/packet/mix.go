package packet

import "encoding/binary"

// MixFactor is the odd number that Mix multiplies by: the fraction of the golden ratio.
const MixFactor = 0x9e3779b97f4a7c15

// Mix is a hash of words that programs in the kernel can make as well (internal/bpf). It is
// quick, and keeps nobody from looking for words with the same hash who knows the seed.
func Mix(seed uint64, words ...uint64) uint64 {
	h := seed
	for _, word := range words {
		h = (h ^ word) * MixFactor
		h ^= h >> 32
	}
	return h
}

// Words are the address as a machine with the least octet first reads it from a header.
func (a *Addr) Words() (first, second uint64) {
	return binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:])
}

// WirePort is a port as a header has it.
type WirePort [2]byte

// WirePortOf turns the port's octets round, if need be.
func WirePortOf(port uint16) (b WirePort) {
	binary.BigEndian.PutUint16(b[:], port)
	return b
}

// Word is the port as a machine with the least octet first reads it from a header.
func (b WirePort) Word() uint64 { return uint64(binary.LittleEndian.Uint16(b[:])) }
