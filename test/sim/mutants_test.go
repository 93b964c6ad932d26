//go:build mutants

package main

import (
	"os"
	"testing"

	"carrierclass.net/ccnode/crdt/mutant"
)

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
		caught := ""
		seeds := uint64(0)
		for ; seeds < 400 && caught == ""; seeds++ {
			if r := run(seeds, 2+int(seeds)%11, 80); len(r.faults) > 0 {
				caught = r.faults[0]
			}
		}
		if caught == "" {
			t.Errorf("%s: not caught by %d schedules", m, seeds)
			continue
		}
		t.Logf("%-16s caught by schedule %3d: %.120s", m, seeds-1, caught)
	}
}
