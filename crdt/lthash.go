package crdt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"carrierclass.net/ccnode/crdt/mutant"
	"lukechampine.com/blake3/guts"
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
	if mutant.Is(mutant.XorPrint) {
		for i := range id {
			h[i] ^= id[i]
		}
		return
	}
	if wide {
		addExpansion(h, &id)
	} else {
		h.inParts(id, false)
	}
}

// Remove takes an id out of the set.
func (h *LtHash) Remove(id ID) {
	if mutant.Is(mutant.XorPrint) {
		h.Add(id) // its own reverse
		return
	}
	if wide {
		subExpansion(h, &id)
	} else {
		h.inParts(id, true)
	}
}

// inParts makes the lanes in memory and adds them, or takes them out.
func (h *LtHash) inParts(id ID, out bool) {
	var x [expanded]byte
	n := expansion(id)
	for at := 0; at < len(h); at += expanded {
		guts.CompressBlocks(&x, n)
		n.Counter += guts.MaxSIMD
		if lanes := (*[expanded]byte)(h[at:]); out {
			subLanes(lanes, &x)
		} else {
			addLanes(lanes, &x)
		}
	}
}

// Where there is no assembly, four lanes at a time in a word: the top bits are
// added apart, so that no lane carries into the next.
const tops = 0x8000_8000_8000_8000

func addWords(h, x *[expanded]byte) {
	for i := 0; i < expanded; i += 8 {
		a, b := binary.LittleEndian.Uint64(h[i:]), binary.LittleEndian.Uint64(x[i:])
		binary.LittleEndian.PutUint64(h[i:], (a&^tops+b&^tops)^(a^b)&tops)
	}
}

func subWords(h, x *[expanded]byte) {
	for i := 0; i < expanded; i += 8 {
		a, b := binary.LittleEndian.Uint64(h[i:]), binary.LittleEndian.Uint64(x[i:])
		binary.LittleEndian.PutUint64(h[i:], (a|tops-b&^tops)^(a^^b)&tops)
	}
}

// Digest shortens the hash to a fingerprint.
func (h *LtHash) Digest() (f Fingerprint) {
	sum := sha256.Sum256(h[:])
	copy(f[:], sum[:])
	return f
}

// expanded is how much of an id's BLAKE3 output is made at once.
const expanded = guts.MaxSIMD * guts.BlockSize

// expansion is the root node of BLAKE3 over an id: its output blocks, by
// counter, are the lanes that the id adds (BLAKE3 paper, §2.6, extendable
// output). Made by hand, because a Hasher costs more than its output here.
func expansion(id ID) guts.Node {
	n := guts.CompressChunk(id[:], &guts.IV, 0, 0)
	n.Flags |= guts.FlagRoot
	return n
}
