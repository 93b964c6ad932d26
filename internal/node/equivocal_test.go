package node

import (
	"errors"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
)

// TestTwoChangesUnderOneNumberFenceABox: a box whose disk was copied signs two
// different changes with one dot. Whoever meets both proves it to all, and all
// close their links.
func TestTwoChangesUnderOneNumberFenceABox(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	c := newBox(t, "c").up(a.invite("0003"))
	for _, x := range []*box{a, b, c} {
		until(t, x.cfg.Name+" knows three nodes", func() bool { return x.back.Status(t.Context()).Fleet.Nodes == 3 })
	}
	id := c.n.id.Node()
	grant, err := c.n.book.Member(id)
	if err != nil {
		t.Fatal(err)
	}
	stamp := c.n.engine.Now() + 1<<16
	for _, name := range []string{"one", "other"} {
		x := &crdt.Change{Scope: crdt.Fleet, Node: crdt.NodeID(id), Actor: 77, Stamp: stamp, Auth: grant.ID(),
			Writes: []crdt.Write{{Table: state.TableNode, Record: string(id[:]), Field: "\x7f", Value: []byte(name)}}}
		if err := crdt.Seal(x, c.n.book.Fleet(), c.n.id.Sign); err != nil {
			t.Fatal(err)
		}
		if time.Duration(x.Stamp.Millis()-a.n.engine.Now().Millis())*time.Millisecond > time.Minute {
			t.Fatal("the clocks are apart")
		}
		if _, v, err := a.n.engine.Submit(t.Context(), x.Raw()); err != nil || v.Outcome != replica.Accept {
			t.Fatalf("%v, %v", v, err)
		}
	}
	for _, x := range []*box{a, b} {
		until(t, x.cfg.Name+" knows that c is not to be believed", func() bool {
			_, err := x.n.book.Member(id)
			return errors.Is(err, trust.ErrRevoked) && x.n.book.Cheats(id)
		})
		until(t, x.cfg.Name+" has closed its links with c", func() bool { return !x.n.mesh.Stats(c.peer()).Linked && cutOff(t, c, x, keepProtocol) != "" })
	}
	if _, err := a.n.book.Member(b.n.id.Node()); err != nil {
		t.Errorf("b suffers, too: %v", err)
	}
}
