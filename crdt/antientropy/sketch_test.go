package antientropy

import (
	"fmt"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// TestASetThatChangesWhileItIsCompared: two neighbours that are new to each other
// differ by more than the kept cells tell, and both are written to while the cells
// travel. Each cell is of the set as it was; only what differs is sent.
func TestASetThatChangesWhileItIsCompared(t *testing.T) {
	w := newWorld(t, 3)
	w.link(0, 1, true)
	w.link(0, 2, true)
	for i := range 6000 {
		w.boxes[0].write(fmt.Sprint("r", i), "v")
	}
	w.settle()
	w.link(0, 1, false)
	w.link(0, 2, false)
	a, b := w.boxes[1], w.boxes[2]
	const apart = 2500
	for i := range apart {
		a.write(fmt.Sprint("one", i), "v")
		b.write(fmt.Sprint("two", i), "v")
	}
	w.bytes, w.copies = 0, 0
	w.link(1, 2, true)
	during, kinds := 0, map[byte]int{}
	for n := 0; len(w.wire) > 0; n++ {
		if n > 100_000 {
			t.Fatal("they never stop talking")
		}
		p := w.wire[0]
		w.wire = w.wire[1:]
		kind := p.body[0] &^ (compressed | recalled)
		kinds[kind]++
		if kind == kindCells || kind == kindMore { // somebody writes, in both shops
			a.write(fmt.Sprint("during", n), "v")
			b.write(fmt.Sprint("r", n%6000), "w")
			during += 2
		}
		i := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
		w.boxes[i].m.Receive(p.from, p.body)
		w.collect(i)
	}
	if a.set.Fingerprint() != b.set.Fingerprint() {
		t.Fatalf("they hold %d and %d changes", a.set.Len(), b.set.Len())
	}
	if kinds[kindWant] > 0 || kinds[kindCells] < 6 || during < 12 {
		t.Errorf("said, by kind: %v; %d changes meanwhile", kinds, during)
	}
	if w.copies > 2*apart+2*during {
		t.Errorf("%d changes were sent for %d differences and %d changes meanwhile", w.copies, 2*apart, during)
	}
	t.Logf("%d differences and %d changes meanwhile: %d changes sent, %d bytes", 2*apart, during, w.copies, w.bytes)
}

// TestMoreChangesThanCanBeUndone: when the set has changed by more than its cells
// can tell, everything is asked for, by both, and they are equal in the end.
func TestMoreChangesThanCanBeUndone(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	for i := range 6000 {
		a.write(fmt.Sprint("a", i), "v")
		b.write(fmt.Sprint("b", i), "v")
	}
	w.link(0, 1, true)
	done, wants := false, 0
	for n := 0; len(w.wire) > 0; n++ {
		if n > 200_000 {
			t.Fatal("they never stop talking")
		}
		p := w.wire[0]
		w.wire = w.wire[1:]
		kind := p.body[0] &^ (compressed | recalled)
		if kind == kindWant {
			wants++
		}
		if kind == kindCells && !done {
			done = true
			for i := range 4000 {
				a.write(fmt.Sprint("a", i), "w")
				b.write(fmt.Sprint("b", i), "w")
			}
		}
		i := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
		w.boxes[i].m.Receive(p.from, p.body)
		w.collect(i)
	}
	if err := w.equal(); err != nil || wants != 2 {
		t.Fatalf("%v; everything was asked for %d times", err, wants)
	}
	for _, x := range w.boxes {
		if x.set.Sketch([16]byte{9}).Size() != x.set.Len() || x.set.Len() < crdt.SketchFrom {
			t.Error("a sketch has another size than its set")
		}
	}
}
