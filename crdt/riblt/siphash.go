package riblt

import (
	"encoding/binary"
	"math/bits"
)

// A Key makes symbols and checks: 128 bits, drawn by who sends a sketch, so that
// nobody can prepare ids that collide in it.
type Key [16]byte

// sip is SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF",
// 2012).
func sip(k0, k1 uint64, b []byte) uint64 {
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
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
	}
	last := uint64(len(b)) << 56
	for ; len(b) >= 8; b = b[8:] {
		m := binary.LittleEndian.Uint64(b)
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	round()
	round()
	round()
	round()
	return v0 ^ v1 ^ v2 ^ v3
}

// Symbol is what an id is in a sketch: its SipHash under the key. Of 300,000
// ids two collide once in 400 million draws of the key.
func (k Key) Symbol(id []byte) uint64 {
	return sip(binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:]), id)
}

// check vouches for a symbol that is alone in a cell.
func (k Key) check(symbol uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], symbol)
	return uint32(sip(binary.LittleEndian.Uint64(k[8:]), ^binary.LittleEndian.Uint64(k[:]), b[:]))
}
