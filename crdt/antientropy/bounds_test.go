package antientropy

import (
	"fmt"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// deliver takes the oldest message off the wire.
func (w *world) deliver() {
	p := w.wire[0]
	w.wire = w.wire[1:]
	i := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
	w.boxes[i].m.Receive(p.from, p.body)
	w.collect(i)
}

// TestHeldChangesDoNotMakeEverythingTravelAtEveryLink: one box holds a change
// that the other has applied, so their fingerprints differ for good.
func TestHeldChangesDoNotMakeEverythingTravelAtEveryLink(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	b.keep = func(c *crdt.Change) bool { return c.Writes[0].Record == "held" }
	const n, links = 200, 64
	for i := range n {
		a.write(fmt.Sprint("r", i), "v")
	}
	a.write("held", "v")
	w.collect(0)
	w.link(0, 1, true)
	w.settle()
	w.copies = 0
	for i := range links {
		w.link(0, 1, false)
		a.write(fmt.Sprint("new", i), "v")
		w.collect(0)
		w.link(0, 1, true)
		w.settle()
	}
	// 64 new ones, and everything again, both ways, at about the links 2, 4, 8, 16, 32 and 64.
	if most := links + 2*7*(n+links+1); w.copies > most {
		t.Errorf("%d changes travelled over %d links, want at most %d", w.copies, links, most)
	}
	if b.set.Len() != n+links {
		t.Errorf("b has %d changes, want %d", b.set.Len(), n+links)
	}
	// What was held is applied at last: all is well again, and damage is healed at once.
	b.keep = nil
	b.take(a.bytes[a.arrived[n].ID], a.id)
	w.link(0, 1, false)
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	w.link(0, 1, false)
	a.write("last", "v")
	w.collect(0)
	old := b.arrived
	b.set, b.arrived = crdt.NewSet(crdt.Fleet), nil
	for _, x := range old[:30] {
		b.take(b.bytes[x.ID], x.From)
	}
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Error(err)
	}
}

// TestATopologyThatChangesOnOneSideGoesOn: the other side says its hello again.
func TestATopologyThatChangesOnOneSideGoesOn(t *testing.T) {
	for _, first := range []string{"only a", "a, then b", "both at once"} {
		t.Run(first, func(t *testing.T) {
			w := newWorld(t, 2)
			a, b := w.boxes[0], w.boxes[1]
			w.link(0, 1, true)
			w.settle()
			for i := range 40 {
				a.write(fmt.Sprint("a", i), "v")
				b.write(fmt.Sprint("b", i), "v")
			}
			w.collect(0)
			w.collect(1)
			w.deliver()
			more := []crdt.Scope{crdt.Fleet, crdt.SiteScope([10]byte{7})}
			a.m.Configure([]Neighbour{{Peer: b.id, Shared: more}})
			w.collect(0)
			if first == "a, then b" {
				w.settle()
			}
			if first != "only a" {
				b.m.Configure([]Neighbour{{Peer: a.id, Shared: more}})
				w.collect(1)
			}
			w.settle()
			a.write("later", "a")
			b.write("later too", "b")
			w.collect(0)
			w.collect(1)
			w.settle()
			for i, x := range []*box{a, b} { // the model has the same changes in every scope
				x.m.Changed(more[1])
				w.collect(i)
			}
			w.settle()
			if err := w.equal(); err != nil {
				t.Fatal(err)
			}
			if first != "only a" && a.m.Owed(b.id, 10)+b.m.Owed(a.id, 10) != 0 {
				t.Error("something is still owed")
			}
			for i, x := range []*box{a, b} {
				if e := x.m.peers[w.boxes[1-i].id].scopes[crdt.Fleet]; e.differs {
					t.Errorf("box %d never ended the comparison", i)
				}
			}
		})
	}
}

func TestWhatIsNoDebtIsLookedAtOnce(t *testing.T) {
	w := newWorld(t, 3)
	a, b := w.boxes[0], w.boxes[1]
	const n = 3000
	for i := range n {
		a.write(fmt.Sprint("r", i), "v")
	}
	w.collect(0)
	w.link(0, 1, true)
	for range 40 {
		w.deliver()
	}
	w.link(0, 1, false) // before b could tell what of it came from a
	for _, x := range a.arrived[b.set.Len():] {
		b.take(a.bytes[x.ID], a.id)
	}
	b.looked = 0
	for range 100 {
		if d := b.m.Owed(a.id, 1); d != 0 {
			t.Fatalf("%d changes are owed to the one they came from", d)
		}
	}
	if b.looked > 2*n {
		t.Errorf("%d arrivals were looked at for 100 questions, want each once", b.looked)
	}
	if b.m.Owed(w.boxes[2].id, 1) != 1 {
		t.Error("nothing is owed to a box that has nothing")
	}
}

// TestTheWindowHoldsAfterEverythingIsAskedFor: acknowledgements of what was sent
// before do not open it.
func TestTheWindowHoldsAfterEverythingIsAskedFor(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	for i := range 1000 {
		a.write(fmt.Sprint("r", i), "v")
	}
	w.collect(0)
	w.link(0, 1, true)
	out := func() (bytes int) {
		got := b.m.peers[a.id].got
		got.text = slices.Clone(got.text)
		for _, p := range w.wire {
			if p.to != b.id {
				continue
			}
			kind, rest, err := got.split(p.body)
			if err != nil {
				t.Fatal(err)
			}
			if kind == kindBatch {
				var m batchMsg
				if err := decode(rest, &m); err != nil {
					t.Fatal(err)
				}
				for _, c := range m.Changes {
					bytes += len(c)
				}
			}
		}
		return bytes
	}
	for i := 0; i < 6 && out() == 0; i++ { // hellos, then the window is full
		w.deliver()
	}
	if out() == 0 {
		t.Fatal("nothing is on its way; this proves nothing")
	}
	want := packet{b.id, a.id, nil}
	b.m.send(b.m.peers[a.id], kindWant, wantMsg{Scope: []byte(crdt.Fleet)})
	want.body = b.m.Ready().Messages[0].Body
	a.m.Receive(b.id, want.body)
	w.collect(0)
	for i := 0; len(w.wire) > 0; i++ {
		w.deliver()
		if n := out(); i > 12 && n > window+batch {
			t.Fatalf("after %d messages %d bytes are on their way, want at most %d", i, n, window+batch)
		}
	}
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
}

func TestWhoAsksForEverythingAgainAndAgainIsDropped(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	a.write("r", "v")
	w.collect(0)
	w.link(0, 1, true)
	w.settle()
	b.m.send(b.m.peers[a.id], kindWant, wantMsg{Scope: []byte(crdt.Fleet)})
	body := b.m.Ready().Messages[0].Body
	for range maxWants + 1 {
		a.m.Receive(b.id, body)
	}
	if r := a.m.Ready(); len(r.Drop) != 1 {
		t.Errorf("%d links dropped, want one", len(r.Drop))
	}
}
