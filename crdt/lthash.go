package crdt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"lukechampine.com/blake3"
)

// LtHash is the homomorphic set hash of Lewi, Kim, Maykov and Weis ("Securing
// Update Propagation with Homomorphic Hashing", ePrint 2019/227): 1024 lanes of
// 16 bits, added and subtracted. Its zero value is the hash of the empty set.
type LtHash [2048]byte

// Fingerprint is what two nodes compare: the first 16 bytes of SHA-256 of the
// LtHash.
type Fingerprint [16]byte

func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Add puts an id into the set.
func (h *LtHash) Add(id ID) {
	x := expand(id)
	for i := 0; i < len(h); i += 2 {
		binary.LittleEndian.PutUint16(h[i:], binary.LittleEndian.Uint16(h[i:])+binary.LittleEndian.Uint16(x[i:]))
	}
}

// Remove takes an id out of the set.
func (h *LtHash) Remove(id ID) {
	x := expand(id)
	for i := 0; i < len(h); i += 2 {
		binary.LittleEndian.PutUint16(h[i:], binary.LittleEndian.Uint16(h[i:])-binary.LittleEndian.Uint16(x[i:]))
	}
}

// Digest shortens the hash to a fingerprint.
func (h *LtHash) Digest() (f Fingerprint) {
	sum := sha256.Sum256(h[:])
	copy(f[:], sum[:])
	return f
}

func expand(id ID) (out [2048]byte) {
	h := blake3.New(32, nil)
	_, _ = h.Write(id[:])
	_, _ = h.XOF().Read(out[:])
	return out
}
