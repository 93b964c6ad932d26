package antientropy

import (
	"fmt"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// lose takes live changes out of a box without its bookkeeping knowing: a store
// that came back from a power cut with less than it had.
func (b *box) lose(ids ...crdt.ID) {
	gone := map[crdt.ID]bool{}
	for _, id := range ids {
		gone[id] = true
	}
	old := b.arrived
	b.set, b.arrived = crdt.NewSet(crdt.Fleet), nil
	for _, a := range old {
		if gone[a.ID] {
			continue
		}
		c, err := crdt.Decode(b.bytes[a.ID])
		if err != nil {
			panic(err)
		}
		if fx := b.set.Add(c); fx.Live {
			b.arrived = append(b.arrived, a)
		}
	}
}

// TestSilentLossIsRepairedByContent: the cost is that of what was lost.
func TestSilentLossIsRepairedByContent(t *testing.T) {
	for _, who := range []int{0, 1} {
		w := newWorld(t, 2)
		w.link(0, 1, true)
		for i := range 5000 {
			w.boxes[i%2].write(fmt.Sprint("r", i), "v")
		}
		for i := range w.boxes {
			w.collect(i)
		}
		w.settle()
		if err := w.equal(); err != nil {
			t.Fatal(err)
		}
		w.link(0, 1, false)
		w.settle()
		b := w.boxes[who]
		b.lose(b.arrived[10].ID, b.arrived[2500].ID, b.arrived[4990].ID)
		b.restart()
		w.sent, w.bytes, w.copies = 0, 0, 0
		w.link(0, 1, true)
		w.settle()
		if err := w.equal(); err != nil {
			t.Fatalf("box %d lost 3 changes: %v", who, err)
		}
		t.Logf("box %d lost 3 of 5,000: %d messages, %d bytes, %d changes sent", who, w.sent, w.bytes, w.copies)
		if w.copies != 3 || w.bytes > 2000+3*200 {
			t.Errorf("3 lost changes cost %d bytes and %d changes", w.bytes, w.copies)
		}
	}
}

// TestANewNeighbourWithTheSameContentIsSentTheDifference: two nodes that have
// everything from others meet for the first time.
func TestANewNeighbourWithTheSameContentIsSentTheDifference(t *testing.T) {
	w := newWorld(t, 3)
	w.link(0, 1, true)
	w.link(0, 2, true)
	for i := range 3000 {
		w.boxes[0].write(fmt.Sprint("r", i), "v")
	}
	w.settle()
	w.link(0, 1, false)
	w.link(0, 2, false)
	for i := range 10 {
		w.boxes[1].write(fmt.Sprint("one", i), "v")
		w.boxes[2].write(fmt.Sprint("two", i), "v")
		w.boxes[1+i%2].write(fmt.Sprint("r", i), "w")
	}
	w.sent, w.bytes, w.copies = 0, 0, 0
	w.link(1, 2, true)
	w.settle()
	a, b := w.boxes[1], w.boxes[2]
	if a.set.Fingerprint() != b.set.Fingerprint() {
		t.Fatalf("they hold %d and %d changes", a.set.Len(), b.set.Len())
	}
	t.Logf("40 differences of 3,000: %d messages, %d bytes, %d changes sent", w.sent, w.bytes, w.copies)
	if w.copies > 40 || w.bytes > 40*(200+40) {
		t.Errorf("40 differences cost %d bytes and %d changes", w.bytes, w.copies)
	}
	if n, o := a.m.Owed(b.id, 9), b.m.Owed(a.id, 9); n+o != 0 {
		t.Errorf("%d and %d changes are owed though the contents are equal", n, o)
	}
	// From now on they have cursors like old friends.
	w.link(1, 2, false)
	a.write("later", "v")
	w.sent, w.bytes, w.copies = 0, 0, 0
	w.link(1, 2, true)
	w.settle()
	if w.copies != 1 || w.bytes > 700 || a.set.Fingerprint() != b.set.Fingerprint() {
		t.Errorf("one change more cost %d bytes and %d changes", w.bytes, w.copies)
	}
}

// FuzzReconcile: what a hostile peer says in the middle of a reconciliation ends
// its link or changes nothing, and never stops the machine.
func FuzzReconcile(f *testing.F) {
	for kind := range byte(12) {
		f.Add(kind, []byte{0xa1, 1, 0x41, 'f'})
	}
	f.Add(byte(kindCells), []byte("\xa4\x01\x41f\x02\x50aaaaaaaaaaaaaaaa\x03\x18\x40\x05\x4eaaaaaaaaaaaaaa"))
	f.Add(byte(kindMore), []byte("\xa2\x01\x41f\x03\x10"))
	f.Add(byte(kindNeed), []byte("\xa2\x01\x41f\x02\x48aaaaaaaa"))
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		w := newWorld(t, 2)
		a, b := w.boxes[0], w.boxes[1]
		w.link(0, 1, true)
		w.settle()
		for i := range 70 {
			a.write(fmt.Sprint("r", i), "v")
		}
		x := a.m.peers[b.id].scopes[crdt.Fleet]
		x.sketch = a.m.sketching(crdt.Fleet, a.SketchKey())
		before := a.set.Fingerprint()
		a.m.Ready()
		for range 2 {
			a.m.Receive(b.id, append([]byte{kind}, body...))
		}
		a.m.Ready()
		if a.set.Fingerprint() != before {
			t.Fatal("a message changed the set without going through the owner")
		}
	})
}
