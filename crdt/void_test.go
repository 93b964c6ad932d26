package crdt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
)

func sealed(t *testing.T, c *Change) *Change {
	t.Helper()
	if err := Seal(c, FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestVoidNamesChanges: what is taken back is exactly what was named, also if it
// takes several changes to name it, and in whatever order things come.
func TestVoidNamesChanges(t *testing.T) {
	node, actor := NodeID{1}, uint32(7)
	var all []*Change
	var ids []ID
	for i := range 3000 {
		c := &Change{Scope: Fleet, Node: node, Actor: actor, Stamp: Stamp(1<<40 + i*70_000), Writes: []Write{{Table: 1, Record: fmt.Sprint(i), Field: "f", Value: []byte("v")}}}
		all = append(all, sealed(t, c))
		if i%3 != 0 {
			ids = append(ids, c.ID())
		}
	}
	ws := VoidWrites(node, ids)
	if len(ws) < 2 {
		t.Fatalf("%d writes name %d changes", len(ws), len(ids))
	}
	for i, w := range ws {
		c := sealed(t, &Change{Scope: Fleet, Node: node, Actor: 8, Stamp: Stamp(1 + i), Writes: []Write{w}})
		d, err := Decode(c.Raw())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	for seed := range uint64(4) {
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		s := NewSet(Fleet)
		for _, c := range all {
			s.Add(c)
		}
		if want := 1000 + len(ws); s.Len() != want {
			t.Fatalf("order %d: %d changes are live, want %d", seed, s.Len(), want)
		}
		for _, c := range all {
			if c.Actor == actor && s.Has(c.ID()) == s.Void(c) {
				t.Fatalf("change at %v is live and taken back, or neither", c.Stamp)
			}
		}
	}
}

// TestVoidIsOnesOwn: nobody takes back what another wrote, a final, or anything of
// trust; nonsense is no change.
func TestVoidIsOnesOwn(t *testing.T) {
	me, other := NodeID{1}, NodeID{2}
	mine := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 7, Stamp: 5, Writes: []Write{{Table: 1, Record: "p", Field: "f"}}})
	good := VoidWrites(me, []ID{mine.ID()})[0]
	for what, c := range map[string]*Change{
		"another's":       {Scope: Fleet, Node: other, Stamp: 9, Writes: []Write{good}},
		"of trust":        {Scope: Trust, Node: me, Stamp: 9, Writes: []Write{good}},
		"not alone":       {Scope: Fleet, Node: me, Stamp: 9, Writes: []Write{good, {Table: 1, Record: "r", Field: "f"}}},
		"a final":         {Scope: Fleet, Node: me, Stamp: 9, Writes: []Write{{Table: TableVoid, Record: good.Record, Flags: Final}}},
		"no names":        {Scope: Fleet, Node: me, Stamp: 9, Writes: []Write{{Table: TableVoid, Record: good.Record, Field: good.Field}}},
		"half a name":     {Scope: Fleet, Node: me, Stamp: 9, Writes: []Write{{Table: TableVoid, Record: good.Record, Field: good.Field, Value: []byte{1, 2, 3}}}},
		"former: no list": {Scope: Fleet, Node: me, Stamp: 9, Ext: map[uint64][]byte{ExtFormer: {0x01}}, Writes: []Write{{Table: 1, Record: "r", Field: "f"}}},
	} {
		if err := Seal(c, FleetID{}, func([]byte) []byte { return make([]byte, 64) }); !errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := NewSet(Fleet)
	theirs := sealed(t, &Change{Scope: Fleet, Node: other, Actor: 7, Stamp: 5, Writes: []Write{{Table: 1, Record: "r", Field: "f"}}})
	final := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 7, Stamp: 5, Writes: []Write{{Table: 1, Record: "q", Flags: Final}}})
	s.Add(theirs)
	s.Add(final)
	s.Add(mine)
	s.Add(sealed(t, &Change{Scope: Fleet, Node: me, Stamp: 9, Writes: VoidWrites(me, []ID{theirs.ID(), final.ID()})}))
	s.Add(sealed(t, &Change{Scope: Fleet, Node: me, Stamp: 10, Writes: []Write{good}}))
	if s.Has(mine.ID()) || !s.Has(theirs.ID()) || !s.Has(final.ID()) {
		t.Error("what may not be taken back is gone, or what may is not")
	}
}

// TestVoidKeepsWhatIsNowhereElse: what is taken back goes to the history, unless
// the same is said beside it.
func TestVoidKeepsWhatIsNowhereElse(t *testing.T) {
	me := NodeID{1}
	s := NewSet(Fleet)
	var ids []ID
	for i, v := range []string{"said again", "only here"} {
		c := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 7, Stamp: Stamp(100 + i), Writes: []Write{{Table: 1, Record: fmt.Sprint(i), Field: "f", Value: []byte(v)}}})
		ids = append(ids, c.ID())
		s.Add(c)
	}
	s.Add(sealed(t, &Change{Scope: Fleet, Node: me, Actor: 8, Stamp: 5, Writes: []Write{{Table: 1, Record: "0", Field: "f", Value: []byte("said again")}}}))
	fx := s.Add(sealed(t, &Change{Scope: Fleet, Node: me, Actor: 8, Stamp: 6, Writes: VoidWrites(me, ids)}))
	if len(fx.Displaced) != 1 || !bytes.Equal(fx.Displaced[0].Version.Value, []byte("only here")) || len(fx.Pruned) != 2 {
		t.Errorf("displaced %v, pruned %d", fx.Displaced, len(fx.Pruned))
	}
}

// TestFormer: who saw a change under its former dot has seen it, in any order.
func TestFormer(t *testing.T) {
	me, other := NodeID{1}, NodeID{2}
	first := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 7, Stamp: 100, Writes: []Write{{Table: 1, Record: "r", Field: "f", Value: []byte("a")}}})
	again := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 8, Stamp: 5, Ext: FormerExt(nil, first), Writes: []Write{{Table: 1, Record: "r", Field: "f", Value: []byte("a")}}})
	over := sealed(t, &Change{Scope: Fleet, Node: other, Actor: 9, Stamp: 101, Writes: []Write{{Table: 1, Record: "r", Field: "f", Value: []byte("b"), Ctx: Context{first.Dot()}}}})
	third := sealed(t, &Change{Scope: Fleet, Node: me, Actor: 9, Stamp: 3, Ext: FormerExt(again.Ext, again), Writes: again.Writes})
	if d := third.Former(); len(d) != 2 || d[0] != again.Dot() || d[1] != first.Dot() {
		t.Errorf("former of former: %v", d)
	}
	for _, order := range [][]*Change{{first, again, over}, {over, again, first}, {again, over}, {third, over, again}} {
		s := NewSet(Fleet)
		for _, c := range order {
			s.Add(c)
		}
		if vs := s.Versions(again.Cell(0)); len(vs) != 1 || vs[0].ID != over.ID() || !s.Seen(again) || len(s.former) != 0 {
			t.Errorf("%d versions", len(vs))
		}
	}
}
