package node

import (
	"context"
	"io"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// cutOff says why from cannot use a stream to the node at to; "" if it can. A
// stream's first answer is what counts: opening it is free.
func cutOff(t *testing.T, from, to *box, protocol string) string {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patienceOfTests)
	defer stop()
	s, err := from.n.mesh.OpenStream(ctx, to.peer(), protocol)
	if err != nil {
		return err.Error()
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := s.Write(make([]byte, 4)); err != nil {
		return err.Error()
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		return err.Error()
	}
	return ""
}

// TestARevokedBoxIsCutOff: it gets nothing more and is believed nothing, not
// after its restart either; the others go on.
func TestARevokedBoxIsCutOff(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite(""))
	c := newBox(t, "c").up(a.invite("0002"))
	for _, x := range []*box{a, b, c} {
		until(t, x.cfg.Name+" knows three nodes", func() bool { return x.back.Status(t.Context()).Fleet.Nodes == 3 })
	}
	c.user("201", "Chi")
	until(t, "all know Chi", func() bool { return a.knows("Chi") && b.knows("Chi") })
	// The keep-alive of boxes behind routers is the smallest question there is.
	for _, x := range []*box{a, b} {
		if why := cutOff(t, c, x, keepProtocol); why != "" {
			t.Fatalf("before the revocation %s does not answer c: %s", x.cfg.Name, why)
		}
	}
	until(t, "c is linked with the founder", func() bool { return a.n.mesh.Stats(c.peer()).Linked })

	name := "a.s0002.shops.example"
	if err := b.back.RevokeNode(t.Context(), "boss", name, nil); err == nil {
		t.Error("a box without the right to admit to the fleet revokes one of another site")
	}
	if err := a.back.RevokeNode(t.Context(), "boss", name, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "the pair knows of the revocation", func() bool { return b.n.book.Revocation(c.n.id.Node()) != nil })
	for _, x := range []*box{a, b} {
		until(t, x.cfg.Name+" has closed its links with c", func() bool { return !x.n.mesh.Stats(c.peer()).Linked })
	}

	for _, x := range []*box{a, b} { // streams end with what the node derives from its book
		until(t, x.cfg.Name+" has closed its streams with c", func() bool { return cutOff(t, c, x, keepProtocol) != "" })
	}

	refused := func(when string) {
		t.Helper()
		for _, x := range []*box{a, b} {
			for _, p := range []string{keepProtocol, apiProtocol, sipProtocol, pairProtocol} {
				if cutOff(t, c, x, p) == "" {
					t.Errorf("%s %s still serves c %s", when, x.cfg.Name, p)
				}
			}
			if x.n.mesh.Stats(c.peer()).Linked {
				t.Errorf("%s %s is linked with c", when, x.cfg.Name)
			}
		}
	}
	refused("after the revocation")

	// Those who stay go on, in both directions, and the revoked one hears none of it.
	after := func(first, second string, numbers ...string) {
		t.Helper()
		a.user(numbers[0], first)
		b.user(numbers[1], second)
		until(t, "the pair goes on", func() bool { return b.knows(first) && a.knows(second) && same(a, b) })
		if why := cutOff(t, b, a, keepProtocol); why != "" {
			t.Errorf("the pair's streams end: %s", why)
		}
		if err := c.back.Check(t.Context()); err != nil { // it knocks at once
			t.Error(err)
		}
		refused("after " + first)
		if c.knows(first) || c.knows(second) {
			t.Errorf("the revoked box learns of %s or %s", first, second)
		}
	}
	after("Dee", "Eva", "203", "204")

	// What it writes is its own business.
	c.user("205", "Forged")
	refused("after its own writing")

	// Whether it heard of its own revocation before it was cut off is chance. If
	// it knows, it says so; if not, it goes on alone.
	c.down()
	c.start("")
	select {
	case <-c.told:
		refused("after its restart")
		after("Fay", "Gus", "206", "207")
	case err := <-c.ended:
		c.ended = nil
		if err == nil || !contains(err.Error(), "this box was revoked", c.cfg.Data, "new invite") {
			t.Errorf("the revoked box ended with %v", err)
		}
		a.user("206", "Fay")
		b.user("207", "Gus")
	}
	if a.knows("Forged") || b.knows("Forged") {
		t.Error("what a revoked box wrote is believed")
	}
	if !a.knows("Chi") || !b.knows("Chi") {
		t.Error("what it wrote before the revocation is gone")
	}
	if n := a.back.Status(t.Context()).Fleet.Nodes; n != 2 {
		t.Errorf("the founder counts %d nodes", n)
	}

	// Nor do the others come to it.
	a.n.mesh.Dial(c.peer())
	if _, err := a.n.mesh.OpenStream(t.Context(), c.peer(), keepProtocol); err == nil {
		t.Error("the founder opens a stream to the revoked box")
	}

	// An invite does not bring the same key back, and is not used up by the try.
	// The box emptied, it is a new one.
	c.down()
	d := newBox(t, "d")
	d.key(c.n.id.Seed())
	token := a.invite("0002")
	if why := d.refused(token); !contains(why, "join: refused: node "+c.n.id.Node().String()+" was revoked", "empty data folder") {
		t.Errorf("the revoked key comes with a new invite: %s", why)
	}
	if got := holds(t, d); len(got) > 0 {
		t.Errorf("the refused box holds %q", got)
	}
	d.is(func(site.NodeID) bool { return true })
	d.up(token)
	until(t, "the box that took its place knows who was made meanwhile", func() bool { return d.knows("Gus") && d.knows("Fay") })
	if d.knows("Forged") {
		t.Error("what the revoked box wrote is believed by the one that took its place")
	}
}
