package main

import "testing"

// TestPlays: what chance rarely brings about ends well, too.
func TestPlays(t *testing.T) {
	for _, p := range plays {
		fits := 0
		for seed := uint64(0); seed < 300 && fits < 5; seed++ {
			faults, fit := direct(seed, 2+int(seed)%11, p)
			if !fit {
				continue
			}
			fits++
			if len(faults) > 0 {
				t.Errorf("%s: seed %d: %s", p.what, seed, faults[0])
			}
		}
		if fits < 5 {
			t.Errorf("%s: only %d fleets were fit for it", p.what, fits)
		}
	}
}
