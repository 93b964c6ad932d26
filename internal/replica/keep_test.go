package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

// keeps makes node 1 hold the state of node 0's site, or not.
func (f *fleet) keeps(yes bool) {
	f.t.Helper()
	for i, n := range f.nodes {
		nb := antientropy.Neighbour{Peer: f.nodes[1-i].id, Shared: []crdt.Scope{crdt.Trust, crdt.Fleet}}
		switch {
		case yes:
			nb.Shared = []crdt.Scope{crdt.Trust, siteA, crdt.Fleet}
		case i == 1:
			nb.Holds = []crdt.Scope{siteA}
		}
		n.topo.mu.Lock()
		n.topo.holds[siteA] = yes || i == 0
		n.topo.ns = []antientropy.Neighbour{nb}
		n.topo.mu.Unlock()
		if err := n.e.TopologyChanged(context.Background()); err != nil {
			f.t.Fatal(err)
		}
	}
}

// TestAStandInTakesAndForgetsASite: what waited for the site becomes part of
// what is held; when the role is over all is removed, but nothing is lost that
// nobody else has; and the role can come back.
func TestAStandInTakesAndForgetsASite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a, b := f.nodes[0], f.nodes[1]
		a.mustPut(siteA, "u1", "name", "Ann")
		f.settled(5 * time.Second)
		f.cut([]int{0}, []int{1})
		b.mustPut(siteA, "m1", "entry", "left by B") // for another site: the outbox
		f.keeps(true)
		b.want(siteA, "m1", "entry", "left by B")
		if st := b.e.Status(); st.Outbox != 0 {
			t.Errorf("%d changes still wait in the outbox of a holder", st.Outbox)
		}
		f.cut([]int{0, 1})
		f.settled(2 * time.Minute)
		f.equal(siteA, 0, 1)
		a.want(siteA, "m1", "entry", "left by B")
		if !a.e.Caught(b.id, siteA) {
			t.Error("the site does not know that its stand-in has all")
		}

		f.cut([]int{0}, []int{1})
		b.mustPut(siteA, "m2", "entry", "nobody else has it")
		a.mustPut(siteA, "u1", "name", "Anne")
		if a.e.Caught(b.id, siteA) {
			t.Error("the stand-in is said to have what it was not sent")
		}
		f.keeps(false)
		time.Sleep(forgetAfter / 2)
		b.want(siteA, "u1", "name", "Ann")
		time.Sleep(forgetAfter)
		b.want(siteA, "u1", "name")
		if b.e.Have(siteA) {
			t.Error("it still holds the site")
		}
		if st := b.e.Status(); st.Outbox != 1 || st.Only.Changes != 1 {
			t.Errorf("what only this node has: %d in the outbox, %+v", st.Outbox, st.Only)
		}
		keys := b.keysOf(siteA)
		if keys != 0 {
			t.Errorf("%d keys of the site are left on its disk", keys)
		}

		// A restart changes nothing about it.
		b.stop()
		b.mustStart(f.media[1])
		if b.e.Have(siteA) {
			t.Error("it is back after a restart")
		}
		f.cut([]int{0, 1})
		f.settled(2 * time.Minute)
		a.want(siteA, "m2", "entry", "nobody else has it")

		f.keeps(true)
		f.settled(2 * time.Minute)
		f.equal(siteA, 0, 1)
		b.want(siteA, "u1", "name", "Anne")
	})
}

// keysOf counts what of a scope's changes and history lies on the disk.
func (n *node) keysOf(scope crdt.Scope) (count int) {
	time.Sleep(2 * choreDelay)
	keys, err := n.e.pastOf(scope)
	if err != nil {
		n.t.Fatal(err)
	}
	n.e.mu.RLock()
	defer n.e.mu.RUnlock()
	var none crdt.LtHash
	if n.e.scopes[scope].stored != none {
		count++
	}
	return count + len(keys)
}
