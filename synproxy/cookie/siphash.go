package cookie

import "math/bits"

// Key is a SipHash key: 128 bits nobody outside can guess.
type Key [2]uint64

// What the key is mixed into at first: "somepseudorandomlygeneratedbytes".
const (
	Sip0 = 0x736f6d6570736575
	Sip1 = 0x646f72616e646f6d
	Sip2 = 0x6c7967656e657261
	Sip3 = 0x7465646279746573
)

// sum is SipHash-2-4 (Aumasson and Bernstein, 2012) over whole words, so that
// the last word holds nothing but the length.
func (k Key) sum(words *[6]uint64) uint64 {
	v0 := k[0] ^ Sip0
	v1 := k[1] ^ Sip1
	v2 := k[0] ^ Sip2
	v3 := k[1] ^ Sip3
	for _, m := range words {
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	last := uint64(len(words)*8) << 56
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	v2 = bits.RotateLeft64(v2, 32)
	return v0, v1, v2, v3
}
