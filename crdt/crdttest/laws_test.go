package crdttest

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

func schedules() int {
	if os.Getenv("CCNODE_LONG") != "" {
		return 10_000
	}
	return 1_000
}

// TestNothingIsLostUnseen runs random schedules of writes, stale tabs, syncs
// and rolled-back disks: all boxes agree with the twin, and no write is gone
// without a true causal descendant.
func TestNothingIsLostUnseen(t *testing.T) {
	for seed := range uint64(schedules()) {
		f := NewFleet(seed, 3, Rules{})
		if err := f.Run(60); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := f.Check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestMutantsAreCaught: a checker that lets these live proves nothing.
func TestMutantsAreCaught(t *testing.T) {
	for name, rules := range map[string]Rules{
		"stamp order":                    {StampOrder: true},
		"no fresh actor for a stale tab": {NoFreshOnStale: true},
		"no fresh actor after rollback":  {NoFreshOnRoll: true},
		"written anew, forgets its own":  {ForgetsOwn: true},
	} {
		caught := 0
		for seed := range uint64(300) {
			f := NewFleet(seed, 3, rules)
			if err := f.Run(60); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			if f.Check() != nil {
				caught++
			}
		}
		if caught == 0 {
			t.Errorf("%s survived 300 schedules", name)
		}
		t.Logf("%s: caught in %d of 300", name, caught)
	}
}

// TestMergeLaws: commutative, associative, idempotent, for any three sets.
func TestMergeLaws(t *testing.T) {
	for seed := range uint64(200) {
		f := NewFleet(seed, 3, Rules{})
		if err := f.Run(40); err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(seed, 2))
		var want []crdt.ID
		for i := range 4 {
			order := slices.Clone(f.all)
			rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			order = append(order, order[:len(order)/2]...) // said twice
			s := crdt.NewSet(crdt.Fleet)
			for _, c := range order {
				seen := s.Seen(c)
				if fx := s.Add(c); seen != (fx.Known || !fx.Live) {
					t.Fatalf("seed %d: change %s is said to be seen: %v, and adding it says %+v", seed, c.ID(), seen, fx)
				}
			}
			if i == 0 {
				want = s.IDs()
			} else if !slices.Equal(s.IDs(), want) {
				t.Fatalf("seed %d: order %d gives another state", seed, i)
			}
		}
	}
}
