package antientropy

import (
	"fmt"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"github.com/fxamacker/cbor/v2"
)

// TestWhatIsStoredAfterTheTopologyMovedIsAcknowledged: between the arrival of a
// batch and its fsync the receiver asks for another hello.
func TestWhatIsStoredAfterTheTopologyMovedIsAcknowledged(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	w.link(0, 1, true)
	w.settle()
	a.write("r", "v")
	w.collect(0)
	p := w.wire[0]
	w.wire = w.wire[1:]
	b.m.Receive(a.id, p.body)
	r := b.m.Ready() // the change is on its way to the disk
	if len(r.Incoming) != 1 {
		t.Fatalf("%d batches came, want one", len(r.Incoming))
	}
	b.m.Configure([]Neighbour{{Peer: a.id, Shared: []crdt.Scope{crdt.Fleet, crdt.SiteScope([10]byte{7})}}})
	in := r.Incoming[0]
	b.take(in.Changes[0], a.id)
	b.taken[Scoped{a.id, in.Scope}] = in.Cursor
	b.m.Stored(in)
	b.m.Changed(in.Scope)
	w.settle()
	a.write("later", "v")
	w.collect(0)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	if n := a.m.Owed(b.id, 10); n != 0 {
		t.Errorf("%d changes are owed for ever, though b has them", n)
	}
	if x := b.m.peers[a.id].scopes[crdt.Fleet]; x.received != x.stored {
		t.Errorf("%d batches came and %d were stored: nothing is compared any more", x.received, x.stored)
	}
}

// TestALinkFromBeforeTheNeighbourWasKnownIsUsed: the link comes up before the
// list of neighbours has the peer, or the list loses it for a while.
func TestALinkFromBeforeTheNeighbourWasKnownIsUsed(t *testing.T) {
	for _, once := range []bool{false, true} {
		w := newWorld(t, 2)
		a, b := w.boxes[0], w.boxes[1]
		known := []Neighbour{b.m.peers[a.id].Neighbour}
		if once {
			w.link(0, 1, true)
			w.settle()
		}
		b.m.Configure(nil)
		w.link(0, 1, true)
		for i := range 20 {
			a.write(fmt.Sprint("a", i), "v")
			b.write(fmt.Sprint("b", i), "v")
		}
		w.settle()
		if b.set.Len() != 20 {
			t.Error("a stranger was listened to")
		}
		b.m.Configure(known)
		w.settle()
		if err := w.equal(); err != nil {
			t.Errorf("known before: %v: %v", once, err)
		}
		if a.m.Owed(b.id, 1)+b.m.Owed(a.id, 1) != 0 {
			t.Errorf("known before: %v: something is owed over an open link", once)
		}
	}
}

// TestAStoreThatCannotBeReadIsNoAcknowledgement: what could not be sent is owed.
func TestAStoreThatCannotBeReadIsNoAcknowledgement(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	w.link(0, 1, true)
	w.settle()
	a.blind = true
	a.write("r", "v")
	w.collect(0)
	w.settle()
	if a.m.Owed(b.id, 10) != 1 {
		t.Error("a change that nobody was sent is not owed any more")
	}
	a.blind = false
	a.m.Changed(crdt.Fleet)
	w.collect(0)
	w.settle()
	if err := w.equal(); err != nil || a.m.Owed(b.id, 10) != 0 {
		t.Errorf("after the store could be read again: %v", err)
	}
}

// TestAPeerCannotFillMemory: scopes and batches have bounds.
func TestAPeerCannotFillMemory(t *testing.T) {
	dropped := func(bodies func(i int) (byte, any)) bool {
		w := newWorld(t, 2)
		a, b := w.boxes[0], w.boxes[1]
		w.link(0, 1, true)
		w.settle()
		for i := range 3 * maxScopes {
			kind, v := bodies(i)
			body, err := cbor.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			a.m.Receive(b.id, append([]byte{kind}, body...))
			r := a.m.Ready()
			if n := len(a.m.peers[b.id].counts); n > maxScopes {
				t.Fatalf("%d scopes are counted", n)
			}
			if len(r.Drop) > 0 {
				return true
			}
		}
		return false
	}
	site := func(i int) []byte { s := crdt.SiteScope([10]byte{1, byte(i), byte(i >> 8)}); return []byte(s) }
	for name, bodies := range map[string]func(int) (byte, any){
		"scopes":   func(i int) (byte, any) { return kindBatch, batchMsg{Scope: site(i), Changes: [][]byte{{1}}} },
		"no scope": func(i int) (byte, any) { return kindBatch, batchMsg{Scope: []byte("x")} },
		"many changes": func(int) (byte, any) {
			return kindBatch, batchMsg{Scope: []byte(crdt.Fleet), Changes: make([][]byte, 5000)}
		},
		"large changes": func(int) (byte, any) {
			return kindBatch, batchMsg{Scope: []byte(crdt.Fleet), Changes: [][]byte{make([]byte, 600<<10)}}
		},
		"many pushed": func(int) (byte, any) { return kindPush, pushMsg{Seq: 1, Changes: make([][]byte, 5000)} },
	} {
		if !dropped(bodies) {
			t.Errorf("%s: the link was not dropped", name)
		}
	}
	if dropped(func(i int) (byte, any) { return kindAck, ackMsg{Scope: site(i)} }) {
		t.Error("an acknowledgement of nothing ended the link")
	}
}
