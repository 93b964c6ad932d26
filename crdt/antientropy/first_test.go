package antientropy

import (
	"fmt"
	"testing"
)

// TestWhatIsNeededFirstComesFirst: of 2,000 changes an empty box gets those it
// needs before all others, in their order, then all, and each of them twice at
// most. A box that has something is not sent them again.
func TestWhatIsNeededFirstComesFirst(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	for i := range 2000 {
		a.write(fmt.Sprint("r", i), "v")
	}
	for _, i := range []int{1999, 3, 1500, 700} {
		a.first = append(a.first, a.arrived[i].ID)
	}
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	for i, id := range a.first {
		if b.arrived[i].ID != id {
			t.Fatalf("arrival %d is not the one that was needed", i)
		}
	}
	if w.copies != 2000+len(a.first) {
		t.Errorf("%d copies of 2000 changes", w.copies)
	}
	w.link(0, 1, false)
	a.write("new", "v")
	w.copies = 0
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil || w.copies != 1 {
		t.Errorf("%v, %d copies of one change", err, w.copies)
	}
}
