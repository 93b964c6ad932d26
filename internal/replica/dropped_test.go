package replica

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// TestADroppedChangeIsNotHeldAgain: not when it is sent again, not after a
// restart; but it is taken once it is good.
func TestADroppedChangeIsNotHeldAgain(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	bob := newMember("bob")
	c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
		Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
	if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
		t.Fatal(err)
	}
	again := func(held int, o Outcome) {
		t.Helper()
		if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != o || len(n.e.Held()) != held {
			t.Fatalf("%v, %v; %d are held", v, err, len(n.e.Held()))
		}
	}
	again(1, Hold)
	if h := n.e.Held(); h[0].Wait() != ForAuthor {
		t.Fatalf("it waits for %s", h[0].Wait())
	}
	if v, err := n.e.RetryHeld(t.Context(), c.ID()); err != nil || v.Outcome != Hold || len(n.e.Held()) != 1 {
		t.Fatal(v, err)
	}
	if err := n.e.DropHeld(t.Context(), c.ID(), Dropped{By: "boss", Writes: []string{"name = Bob"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.e.RetryHeld(t.Context(), c.ID()); err != ErrUnknownChange {
		t.Fatalf("what was dropped is judged again: %v", err)
	}
	again(0, Accept)
	n.want(siteA, "u1", "name")
	n.stop()
	n.mustStart(m)
	again(0, Accept)
	n.want(siteA, "u1", "name")
	ds := n.e.DroppedChanges()
	if len(ds) != 1 || ds[0].ID != c.ID() || ds[0].By != "boss" || ds[0].Node != bob.id || ds[0].Scope != siteA || ds[0].Why != whyUnknown || len(ds[0].Writes) != 1 || ds[0].At.IsZero() {
		t.Fatalf("on record: %+v", ds)
	}
	n.gate.learn(bob)
	again(0, Accept)
	n.want(siteA, "u1", "name", "Bob")
}
