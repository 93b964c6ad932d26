package antientropy

import (
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// TestWhoGoesRoundSomebodyIsAGuest: only one side knows that a third is gone,
// and turns to the other, which has no reason of its own to exchange with it.
func TestWhoGoesRoundSomebodyIsAGuest(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	site := crdt.SiteScope([10]byte{9})
	bare := []Neighbour{{Peer: a.id, Holds: []crdt.Scope{site}}}
	b.m.Configure(bare)
	a.write("r", "one")
	b.write("s", "one")
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatalf("the guest was not heard: %v", err)
	}
	b.write("s", "two")
	w.collect(1)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatalf("the guest is not told what comes later: %v", err)
	}
	// Another list of neighbours in which nothing has changed says nothing.
	w.sent = 0
	b.m.Configure(bare)
	w.collect(1)
	w.settle()
	if w.sent != 0 {
		t.Errorf("%d messages because the same neighbours were named again", w.sent)
	}
	// The guest has found its way again: it is told nothing more.
	a.m.Configure([]Neighbour{{Peer: b.id, Holds: []crdt.Scope{site}}})
	w.collect(0)
	w.settle()
	b.write("s", "three")
	w.collect(1)
	w.settle()
	if n := b.m.Owed(a.id, 9); n != 0 || a.set.Fingerprint() == b.set.Fingerprint() {
		t.Errorf("it is still a guest: %d changes are owed", n)
	}
	// So does the end of the link.
	a.m.Configure([]Neighbour{{Peer: b.id, Shared: []crdt.Scope{crdt.Fleet}}})
	w.collect(0)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatalf("a guest once more: %v", err)
	}
	w.link(0, 1, false)
	b.write("s", "four")
	if n := b.m.Owed(a.id, 9); n != 0 {
		t.Errorf("%d changes are owed to a guest that left", n)
	}
}

// TestAGuestGetsOnlyWhatItMay: the state of a site is given to whom our owner
// named, and to nobody who merely asks.
func TestAGuestGetsOnlyWhatItMay(t *testing.T) {
	for _, may := range []bool{false, true} {
		w := newWorld(t, 2)
		a, b := w.boxes[0], w.boxes[1]
		b.m.Configure([]Neighbour{{Peer: a.id}})
		a.m.Configure([]Neighbour{{Peer: b.id, Shared: []crdt.Scope{crdt.Fleet, "secret"}}})
		if may {
			b.m.Configure([]Neighbour{{Peer: a.id, May: []crdt.Scope{"secret"}}})
		}
		w.link(0, 1, true)
		w.settle()
		got := slices.Contains(b.m.peers[a.id].Shared, "secret")
		if got != may {
			t.Errorf("may %v, shared %v", may, got)
		}
		if may { // what it may can end while it is here
			b.m.Configure([]Neighbour{{Peer: a.id}})
			if slices.Contains(b.m.peers[a.id].Shared, "secret") {
				t.Error("it is still a guest for what it may not have any more")
			}
		}
	}
}

// TestTwoGuestsDoNotEcho: each side wishes to exchange what the other does not,
// and their hellos cross. What one says because the other wishes it is no wish.
func TestTwoGuestsDoNotEcho(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	site := crdt.SiteScope([10]byte{9})
	a.m.Configure([]Neighbour{{Peer: b.id, Shared: []crdt.Scope{crdt.Fleet}, May: []crdt.Scope{site}}})
	b.m.Configure([]Neighbour{{Peer: a.id, Shared: []crdt.Scope{site}}})
	w.link(0, 1, true)
	w.settle()
	for range 3 {
		for _, wish := range [][]crdt.Scope{{crdt.Fleet}, {crdt.Trust, crdt.Fleet}, nil} {
			w.sent = 0
			a.m.Configure([]Neighbour{{Peer: b.id, Shared: wish, May: []crdt.Scope{site}}})
			b.m.Configure([]Neighbour{{Peer: a.id, Shared: append(slices.Clone(wish), site)}})
			w.collect(0)
			w.collect(1)
			w.settle()
			if w.sent > 12 {
				t.Fatalf("%d messages because the wishes changed", w.sent)
			}
		}
	}
	if !slices.Equal(a.m.peers[b.id].Shared, []crdt.Scope{site}) || !slices.Equal(b.m.peers[a.id].Shared, []crdt.Scope{site}) {
		t.Errorf("shared %v and %v", a.m.peers[b.id].Shared, b.m.peers[a.id].Shared)
	}
}
