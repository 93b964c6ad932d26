package main

import (
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// TestShare: boxes that share what they began with say what boxes say that have it
// each for itself, to the last byte, whatever happens to them. Those that restart
// read their disks, and have it for themselves from then on.
func TestShare(t *testing.T) {
	people := crdt.SketchFrom + 200 // enough for sketches that are kept
	for seed := range uint64(3) {
		var out [2]result
		for i, once := range []bool{false, true} {
			w := newFleet(seed, 7, true)
			w.people = people
			if err := w.boxes[0].start(); err != nil {
				t.Fatal(err)
			}
			for n := range people {
				if err := w.boxes[0].write(user(n), nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.share(w.boxes[0], once); err != nil {
				t.Fatal(err)
			}
			out[i] = play(w, 25)
		}
		a, b := out[0], out[1]
		if a.trace != b.trace || a.messages != b.messages || a.bytes != b.bytes || !slices.Equal(a.faults, b.faults) {
			t.Errorf("seed %d: each for itself %d messages, %d bytes, trace %s, %q; shared %d, %d, %s, %q",
				seed, a.messages, a.bytes, a.trace, a.faults, b.messages, b.bytes, b.trace, b.faults)
		}
		if len(a.faults) > 0 {
			t.Errorf("seed %d: %s", seed, a.faults[0])
		}
		t.Logf("seed %d: %d messages, %d bytes, trace %s", seed, a.messages, a.bytes, a.trace)
	}
}
