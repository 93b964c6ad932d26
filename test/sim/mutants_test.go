//go:build mutants

package main

import (
	"os"
	"testing"

	"carrierclass.net/ccnode/crdt/mutant"
)

// played looks whether a planted fault shows in a directed play, and only then.
func played(m mutant.Mutant) string {
	defer func() { mutant.Planted = m }()
	for _, p := range plays {
		fits := 0
		for seed := uint64(0); seed < 300 && fits < 5; seed++ {
			mutant.Planted = m
			faults, fit := direct(seed, 2+int(seed)%11, p)
			if !fit {
				continue
			}
			if fits++; len(faults) == 0 {
				continue
			}
			mutant.Planted = mutant.None
			if well, _ := direct(seed, 2+int(seed)%11, p); len(well) == 0 {
				return p.what + ": " + faults[0]
			}
		}
	}
	return ""
}

// TestMutantsAreCaught: a sweep that lets a planted fault live proves nothing.
func TestMutantsAreCaught(t *testing.T) {
	if len(mutant.All()) < 10 {
		t.Fatal("too few")
	}
	defer func() { mutant.Planted = mutant.None }()
	for _, m := range mutant.All() {
		if os.Getenv("M") != "" && os.Getenv("M") != m.String() {
			continue
		}
		mutant.Planted = m
		seeds := uint64(0)
		caught := played(m)
		if caught != "" {
			t.Logf("%-16s caught by a play: %.160s", m, caught)
			continue
		}
		for ; seeds < 400 && caught == ""; seeds++ {
			if r := run(seeds, 2+int(seeds)%11, 80); len(r.faults) > 0 {
				mutant.Planted = mutant.None // it must end well without
				if len(run(seeds, 2+int(seeds)%11, 80).faults) == 0 {
					caught = r.faults[0]
				}
				mutant.Planted = m
			}
		}
		if caught == "" {
			t.Errorf("%s: not caught by %d schedules", m, seeds)
			continue
		}
		t.Logf("%-16s caught by schedule %3d: %.120s", m, seeds-1, caught)
	}
}
