package cookie

import (
	"encoding/binary"
	"sync/atomic"

	"nfqfw/internal/packet"
	"nfqfw/internal/seqnum"
)

// options is the low octet of a cookie, which is laid out as pf's:
//
//	31                      8 7    5 4    2  1    0
//	[ upper 24 bits of a MAC ][ MSS ][scale][SACK][key]
//
// The low octet is masked with the top octet. The MAC covers both addresses and
// ports, the client's initial number and the low octet.
type options uint8

// What the indexes of a cookie stand for. Values between are rounded down:
// segments and windows are then smaller than they could be, never larger.
var (
	mssOf    = [8]uint16{216, 536, 1200, 1360, 1400, 1440, 1452, 1460}
	wscaleOf = [8]uint8{0, 0, 2, 4, 6, 7, 8, 10} // index 0: the client does not scale; those that systems use
)

// MSSes are the sizes of segments that a cookie can bring back, in order; it has the place
// of one in the bits from MSSBit on.
func MSSes() []uint16 { return mssOf[:] }

// Scales are the window shifts that a cookie can bring back, in order, from the place 1 on:
// 0 is for a client that does not scale. It has the place in the bits from ScaleBit on.
func Scales() []uint8 { return wscaleOf[1:] }

// The bits of a cookie's low octet.
const (
	KeyBit, SACKBit, ScaleBit, MSSBit = 0, 1, 2, 5
)

// Jar holds the two keys cookies are made with. The newer one makes cookies,
// both accept them, so that a cookie lives from one to two rotations. It is
// safe for concurrent use.
type Jar struct{ keys atomic.Pointer[keys] }

type keys struct {
	key    [2]Key
	parity uint8 // the newer one
}

// NewJar makes a jar from two random keys.
func NewJar(newer, older Key) *Jar {
	j := &Jar{}
	j.keys.Store(&keys{key: [2]Key{newer, older}})
	return j
}

// Keys are both keys, and which is the newer one, for another jar to open the same
// cookies.
func (j *Jar) Keys() (both [2]Key, newer uint8) {
	k := j.keys.Load()
	return k.key, k.parity
}

// RestoreJar makes a jar from what Keys of another has told.
func RestoreJar(both [2]Key, newer uint8) *Jar {
	j := &Jar{}
	j.keys.Store(&keys{key: both, parity: newer & 1})
	return j
}

// Rotate replaces the older key by a new random one. Cookies of the replaced
// key are refused from now on.
func (j *Jar) Rotate(k Key) {
	next := *j.keys.Load()
	next.parity ^= 1
	next.key[next.parity] = k
	j.keys.Store(&next)
}

// Bake makes the cookie for a client's SYN. Only the options a SYN+ACK will
// tell the client about belong in o.
func (j *Jar) Bake(t packet.Tuple, client seqnum.Value, o packet.Options) seqnum.Value {
	k := j.keys.Load()
	return k.cookie(t, client, encodeOptions(o)|options(k.parity))
}

// Open checks the cookie that a client repeated, and gives back the options it
// was made with, rounded down.
func (j *Jar) Open(t packet.Tuple, client, cookie seqnum.Value) (packet.Options, bool) {
	o := options(cookie) ^ options(cookie>>24)
	if j.keys.Load().cookie(t, client, o) != cookie {
		return packet.Options{}, false
	}
	return o.decode(), true
}

func (k *keys) cookie(t packet.Tuple, client seqnum.Value, o options) seqnum.Value {
	mac := k.key[o&1].sum(&[6]uint64{
		binary.LittleEndian.Uint64(t.Src[:8]),
		binary.LittleEndian.Uint64(t.Src[8:]),
		binary.LittleEndian.Uint64(t.Dst[:8]),
		binary.LittleEndian.Uint64(t.Dst[8:]),
		uint64(t.SrcPort)<<16 | uint64(t.DstPort),
		uint64(client)<<8 | uint64(o),
	})
	upper := uint32(mac^mac>>32) &^ 0xff
	return seqnum.Value(upper | uint32(uint8(o)^uint8(upper>>24)))
}

func encodeOptions(o packet.Options) options {
	var e options
	if o.SACKPermitted {
		e |= 1 << SACKBit
	}
	if o.HasWScale {
		e |= options(scaleIndex(o.WScale)) << ScaleBit
	}
	return e | options(roundDown(mssOf[:], o.MSS))<<MSSBit
}

func (e options) decode() packet.Options {
	scale := e >> ScaleBit & 7
	return packet.Options{
		MSS:           mssOf[e>>MSSBit],
		WScale:        wscaleOf[scale],
		HasWScale:     scale != 0,
		SACKPermitted: e&(1<<SACKBit) != 0,
	}
}

// RoundScale is the shift that a cookie brings back of a client's.
func RoundScale(shift uint8) uint8 { return wscaleOf[scaleIndex(shift)] }

// scaleIndex is the index of a client's shift, if it scales.
func scaleIndex(shift uint8) int { return 1 + roundDown(wscaleOf[1:], shift) }

// roundDown is the index of the largest value that is not above v, or 0.
func roundDown[T uint8 | uint16](values []T, v T) int {
	for i := len(values) - 1; i > 0; i-- {
		if values[i] <= v {
			return i
		}
	}
	return 0
}
