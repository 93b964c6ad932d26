package crdt

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt/riblt"
)

// chance draws changes of few cells: covers, conflicts, finals, forms of several
// fields, and pairs under one dot.
type chance struct {
	*rand.Rand
	stamp Stamp
	seen  []*Change
}

func (r *chance) change(records int) *Change {
	r.stamp += Stamp(r.IntN(3))
	c := &Change{Scope: Fleet, Node: NodeID{byte(r.IntN(4))}, Actor: uint32(r.IntN(2)), Stamp: r.stamp + 1}
	record := fmt.Sprint("r", r.IntN(records))
	if r.IntN(30) == 0 {
		c.Writes = []Write{{Table: uint16(1 + r.IntN(2)), Record: record, Flags: Final, Value: []byte(fmt.Sprint("final ", r.stamp))}}
	} else {
		for f := range 1 + r.IntN(3) {
			w := Write{Table: uint16(1 + r.IntN(2)), Record: record, Field: fmt.Sprint("f", f), Value: []byte(fmt.Sprint("value ", r.IntN(9)))}
			for range r.IntN(4) {
				if len(r.seen) > 0 {
					if d := r.seen[len(r.seen)-1-r.IntN(min(len(r.seen), 40))].Dot(); d.Stamp < c.Stamp {
						w.Ctx = w.Ctx.With(d)
					}
				}
			}
			c.Writes = append(c.Writes, w)
		}
	}
	if err := Seal(c, FleetID{}, func([]byte) []byte { return make([]byte, sigSize) }); err != nil {
		panic(err)
	}
	r.seen = append(r.seen, c)
	return c
}

// shows is all that a set says.
func shows(s *Set) string {
	out := fmt.Sprint(s.Len(), s.IDs(), s.Fingerprint())
	for table := range uint16(4) {
		records := s.Records(table)
		if begun := s.Begins(table, ""); !slices.Equal(records, begun) {
			out += fmt.Sprint(records, "not", begun)
		}
		for _, rec := range records {
			v, ok := s.Final(table, rec)
			out += fmt.Sprint(rec, v, ok)
			for _, f := range s.Fields(table, rec) {
				c := Cell{Fleet, table, rec, f}
				out += fmt.Sprint(f, s.Versions(c), s.Known(c))
			}
		}
	}
	ids := 0
	s.EachID(func(id ID) {
		ids++
		if !s.Has(id) {
			out += "has not"
		}
	})
	for n := range 9 {
		out += fmt.Sprint(s.Mentions([]byte(fmt.Sprint("value ", n))))
	}
	return out + fmt.Sprint(ids)
}

// TestOver: a set over a base does and says what one does to which the same
// changes were added, and the base stays as it was.
func TestOver(t *testing.T) {
	for seed := range uint64(40) {
		r := &chance{Rand: rand.New(rand.NewPCG(seed, 3)), stamp: 10}
		records := 3 + r.IntN(30)
		base, plain := NewSet(Fleet), NewSet(Fleet)
		var all []*Change
		for range r.IntN(300) {
			c := r.change(records)
			all = append(all, c)
			base.Add(c)
			plain.Add(c)
		}
		began := shows(base)
		over, other := Over(base), Over(base)
		for range 300 {
			c := r.change(records)
			if len(all) > 0 && r.IntN(4) == 0 {
				c = all[r.IntN(len(all))] // known, covered, or back for the second time
			}
			all = append(all, c)
			if a, b := plain.Seen(c), over.Seen(c); a != b {
				t.Fatalf("seed %d: seen %v, over a base %v", seed, a, b)
			}
			if a, b := plain.Add(c), over.Add(c); !reflect.DeepEqual(a, b) {
				t.Fatalf("seed %d: Add did %+v, over a base %+v", seed, a, b)
			}
			if a, b := plain.Author(c.ID()), over.Author(c.ID()); a != b {
				t.Fatalf("seed %d: the author is %x, over a base %x", seed, a, b)
			}
		}
		if a, b := shows(plain), shows(over); a != b {
			t.Fatalf("seed %d:\n%s\nover a base\n%s", seed, a, b)
		}
		if now := shows(base); now != began {
			t.Fatalf("seed %d: %s\nwas\n%s", seed, now, began)
		}
		if now := shows(other); now != began {
			t.Logf("%s\nwas\n%s", now, began)
			t.Fatalf("seed %d: the base, or another set over it, has changed", seed)
		}
	}
}

// TestOverSketch: its sketches are those of the same set, kept or not.
func TestOverSketch(t *testing.T) {
	r := &chance{Rand: rand.New(rand.NewPCG(1, 3)), stamp: 10}
	base, plain := NewSet(Fleet), NewSet(Fleet)
	for range 3 * SketchFrom {
		c := r.change(4 * SketchFrom)
		base.Add(c)
		plain.Add(c)
	}
	over := Over(base)
	for i := range 600 {
		c := r.change(4 * SketchFrom)
		plain.Add(c)
		over.Add(c)
		key := riblt.Key{byte(i / 70)}
		a, b := plain.Sketch(key), over.Sketch(key)
		if a == nil || !slices.Equal(a.Cells(), b.Cells()) || a.Size() != b.Size() {
			t.Fatalf("after %d changes the sketches are not the same", i)
		}
	}
}
