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
