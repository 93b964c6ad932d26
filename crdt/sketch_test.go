package crdt

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt/riblt"
)

// writer makes changes without real signatures.
type writer struct {
	t     testing.TB
	s     *Set
	stamp Stamp
}

func (w *writer) change(flags Flags, records ...string) *Change {
	w.stamp++
	c := &Change{Scope: Fleet, Node: NodeID{1}, Actor: 7, Stamp: w.stamp}
	for _, r := range records {
		x := Write{Table: 1, Record: r, Field: "f", Value: []byte("v"), Flags: flags}
		if flags&Final != 0 {
			x.Field, x.Value = "", nil
		}
		x.Ctx = w.s.Known(Cell{Fleet, 1, r, x.Field})
		c.Writes = append(c.Writes, x)
	}
	if err := Seal(c, FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func name(i int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(i))) }

func rebuilt(s *Set, key riblt.Key) *riblt.Sketch {
	k := riblt.NewSketch(key, SketchCells)
	for _, id := range s.IDs() {
		k.Add(key.Symbol(id[:]))
	}
	return k
}

// TestAKeptSketchIsTheRebuiltOne: whatever is added, covered, killed or said
// twice, under several keys of which some are forgotten and come back.
func TestAKeptSketchIsTheRebuiltOne(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 9))
		s := NewSet(Fleet)
		w := &writer{t: t, s: s}
		keys := make([]riblt.Key, MaxSketches+1)
		for i := range keys {
			keys[i] = riblt.Key{byte(i), byte(seed)}
		}
		var last *Change
		for i := range SketchFrom - 1 {
			s.Add(w.change(0, name(i)))
		}
		if s.Sketch(keys[0]) != nil {
			t.Fatal("a small set keeps a sketch")
		}
		for i := range 4000 {
			switch k := r.IntN(10); {
			case k == 0 && last != nil:
				s.Add(last) // said twice, or covered by now
			case k == 1:
				s.Add(w.change(Final, name(r.IntN(9000))))
			case k < 5: // covers what is there
				last = w.change(0, name(r.IntN(SketchFrom)), name(20000+i))
				s.Add(last)
			default:
				last = w.change(0, name(30000+i))
				s.Add(last)
			}
			if i%200 == 199 {
				key := keys[r.IntN(len(keys))]
				got, want := s.Sketch(key), rebuilt(s, key)
				if got == nil || got.Size() != want.Size() || got.Size() != s.Len() || !slices.Equal(got.Cells(), want.Cells()) {
					t.Fatalf("seed %d, step %d: the kept sketch is not the rebuilt one", seed, i)
				}
				if len(s.sketches) > MaxSketches {
					t.Fatalf("%d sketches are kept", len(s.sketches))
				}
			}
		}
	}
}

// large is a set of 300,000 changes that never were.
func large(b *testing.B) *Set {
	s := NewSet(Fleet)
	for i := range uint64(300_000) {
		var id ID
		binary.BigEndian.PutUint64(id[:], i*0x9e3779b97f4a7c15)
		s.live.put(&entry{id: id})
		s.size++
	}
	return s
}

// BenchmarkSketchRebuilt is what one costs under a key that is new.
func BenchmarkSketchRebuilt(b *testing.B) {
	s := large(b)
	for b.Loop() {
		s.sketches = nil
		s.Sketch(riblt.Key{1})
	}
}

// BenchmarkSketchSorted is what each reconciliation cost before any was kept.
func BenchmarkSketchSorted(b *testing.B) {
	s := large(b)
	for b.Loop() {
		rebuilt(s, riblt.Key{1})
	}
}

// BenchmarkSketchTaken is what one costs that is kept: a copy.
func BenchmarkSketchTaken(b *testing.B) {
	s := large(b)
	s.Sketch(riblt.Key{1})
	b.ReportMetric(float64(len(s.Sketch(riblt.Key{1}).Cells())*24)/1000, "kB")
	for b.Loop() {
		s.Sketch(riblt.Key{1}).Clone()
	}
}

// BenchmarkSketchKept is what a write costs more because one is kept.
func BenchmarkSketchKept(b *testing.B) {
	s := large(b)
	s.Sketch(riblt.Key{1})
	var id ID
	for i := uint64(0); b.Loop(); i++ {
		binary.BigEndian.PutUint64(id[:], i*0x9e3779b97f4a7c15+1)
		s.sketch(id, true)
	}
}
