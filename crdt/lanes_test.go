package crdt

import (
	"math/rand/v2"
	"testing"
)

// TestLanesWithoutAssembly: what other processors run gives the same.
func TestLanesWithoutAssembly(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h, g, x [expanded]byte
	for range 1000 {
		for i := range x {
			x[i] = byte(rnd.Uint32())
		}
		if rnd.IntN(3) > 0 {
			addLanes(&h, &x)
			addWords(&g, &x)
		} else {
			subLanes(&h, &x)
			subWords(&g, &x)
		}
		if h != g {
			t.Fatal("lanes and words differ")
		}
	}
}

// TestAnIdAtOnceAndInParts: a set hashed on one processor has the hash that another
// one gives it.
func TestAnIdAtOnceAndInParts(t *testing.T) {
	if !wide {
		t.Skip("this processor has no AVX-512")
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	var h, g LtHash
	for n := range 1000 {
		var id ID
		for i := range id {
			id[i] = byte(rnd.Uint32())
		}
		if out := rnd.IntN(3) == 0; out {
			h.Remove(id)
			g.inParts(id, true)
		} else {
			h.Add(id)
			g.inParts(id, false)
		}
		if h != g {
			t.Fatalf("id %d: the hashes differ", n)
		}
	}
}
