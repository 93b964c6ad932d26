package antientropy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// step delivers one message; false when none is on its way.
func (w *world) step() bool {
	if len(w.wire) == 0 {
		return false
	}
	p := w.wire[0]
	w.wire = w.wire[1:]
	for i, b := range w.boxes {
		if b.id == p.to {
			b.m.Receive(p.from, p.body)
			w.collect(i)
		}
	}
	return true
}

func (b *box) shows(rec string) bool {
	return len(b.set.Known(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: rec, Field: "f"})) > 0
}

// While many changes catch up, no more than the window is under way, what is
// written now is there with what was under way already, and each change crosses
// once, whatever went ahead of whatever.
func TestAFewChangesPassABacklog(t *testing.T) {
	const pace, many, now = 4 << 10, 2000, 12
	w := newWorld(t, 2)
	w.link(0, 1, true)
	w.settle()
	w.boxes[0].write("first", "v") // the peer's cursor is somewhere
	w.collect(0)
	w.settle()
	w.link(0, 1, false)
	for i := range many {
		w.boxes[0].write(fmt.Sprint("old ", i), "some value")
	}
	w.copies = 0
	w.link(0, 1, true)
	for _, b := range w.boxes {
		for _, o := range w.boxes {
			if o != b {
				b.m.Pace(o.id, pace)
			}
		}
	}
	for range 20 {
		w.step()
	}
	a, b := w.boxes[0], w.boxes[1]
	if got := a.m.peers[b.id].flying(); got == 0 || got > pace*3/2 {
		t.Errorf("%d bytes are under way, want a window of %d", got, pace)
	}
	for i := range now {
		rec := fmt.Sprint("new ", i)
		a.write(rec, "v")
		w.collect(0)
		for n := 0; !b.shows(rec); n++ {
			if n > 8 || !w.step() {
				t.Fatalf("%s is not there after %d messages; %d of %d old ones are", rec, n, b.set.Len(), many)
			}
		}
	}
	if b.set.Len() > many/2 {
		t.Fatalf("%d of %d old changes had arrived: it says nothing", b.set.Len(), many)
	}
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	if w.copies != many+now {
		t.Errorf("%d changes crossed, want %d", w.copies, many+now)
	}
	if owed := a.m.Owed(b.id, 10); owed != 0 {
		t.Errorf("%d changes are owed", owed)
	}
	if p := a.m.peers[b.id].scopes[crdt.Fleet]; len(p.early) != 0 || p.ahead != 0 || p.inflight != 0 {
		t.Errorf("%d are remembered to have gone ahead, %d and %d bytes to be under way", len(p.early), p.ahead, p.inflight)
	}
}

// Links that come and go, windows of all sizes, changes before and behind a
// backlog, and values that are replaced before their turn: all end equal.
func TestPacedAndCutAtRandom(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 3)
		for n := range 400 {
			i := r.IntN(3)
			j := (i + 1 + r.IntN(2)) % 3
			switch b := w.boxes[i]; r.IntN(8) {
			case 0:
				w.link(i, j, true)
			case 1:
				w.link(i, j, r.IntN(3) > 0)
			case 2:
				b.m.Pace(w.boxes[j].id, LeastWindow<<r.IntN(4))
			case 3:
				for k := range r.IntN(60) {
					b.write(fmt.Sprint("many ", n, k%40), "some value")
				}
			default:
				b.write(fmt.Sprint("one ", r.IntN(20)), fmt.Sprint(n))
			}
			w.collect(i)
			for range r.IntN(12) {
				w.step()
			}
		}
		for i := range 3 {
			w.link(i, (i+1)%3, true)
		}
		w.settle()
		if err := w.equal(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i, b := range w.boxes {
			for j, o := range w.boxes {
				if owed := b.m.Owed(o.id, 10); i != j && owed != 0 {
					t.Fatalf("seed %d: box %d owes box %d %d changes", seed, i, j, owed)
				}
			}
		}
	}
}
