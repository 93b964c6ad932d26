package riblt

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// The vector of the SipHash paper, appendix A.
func TestSipHash(t *testing.T) {
	var k Key
	var b [15]byte
	for i := range k {
		k[i] = byte(i)
	}
	for i := range b {
		b[i] = byte(i)
	}
	if got := k.Symbol(b[:]); got != 0xa129ca6149be45e5 {
		t.Fatalf("got %x", got)
	}
}

// The places of a symbol are the same on every machine: both sides must agree.
func TestPlacesAreFixed(t *testing.T) {
	p := places{state: 42}
	var got []uint64
	for range 12 {
		got = append(got, p.at)
		p.next()
	}
	want := []uint64{0, 1, 5, 11, 20, 109, 118, 255, 286, 492, 627, 1387}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func sketch(key Key, cells int, symbols []uint64) *Sketch {
	s := NewSketch(key, cells)
	for _, x := range symbols {
		s.Add(x)
	}
	return s
}

// exchange sends cells one by one until the differences are known.
func exchange(t testing.TB, a, b *Sketch) (d *Decoder, bytes int) {
	d = NewDecoder(a.Key())
	for i := range a.Cells() {
		wire := AppendCells(nil, uint64(a.Size()), i, a.Cells()[i:i+1])
		cells, err := ReadCells(wire, uint64(a.Size()), i, 1)
		if err != nil {
			t.Fatal(err)
		}
		bytes += len(wire)
		if err := d.Add(cells, b.Cells()[i:i+1]); err != nil {
			t.Fatal(err)
		}
		if d.Done() {
			return d, bytes
		}
	}
	return d, bytes
}

func TestFindsTheDifferences(t *testing.T) {
	const n = 300_000
	key := Key{7}
	rnd := rand.New(rand.NewPCG(1, 2))
	common := make([]uint64, n)
	for i := range common {
		common[i] = rnd.Uint64()
	}
	for _, c := range []struct {
		d    int
		most float64 // bytes a difference
	}{{0, 32}, {1, 64}, {10, 40}, {100, 40}, {1000, 40}, {10_000, 40}} {
		cells := 2*c.d + 200
		base := sketch(key, cells, common)
		rounds := 1
		if c.d <= 100 {
			rounds = 10
		}
		var sum, worst int
		for range rounds {
			a, b := &Sketch{key, slices.Clone(base.cells), n}, &Sketch{key, slices.Clone(base.cells), n}
			var theirs, ours []uint64
			for i := range c.d {
				x := rnd.Uint64()
				if i%2 == 0 {
					a.Add(x)
					theirs = append(theirs, x)
				} else {
					b.Add(x)
					ours = append(ours, x)
				}
			}
			d, bytes := exchange(t, a, b)
			if !d.Done() {
				t.Fatalf("%d differences are not found in %d cells", c.d, cells)
			}
			for _, p := range [][2][]uint64{{d.Theirs(), theirs}, {d.Ours(), ours}} {
				got, want := slices.Clone(p[0]), p[1]
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Fatalf("found %d, want %d", len(got), len(want))
				}
			}
			sum += bytes
			worst = max(worst, bytes)
		}
		per := float64(sum) / float64(rounds*max(1, c.d))
		t.Logf("n = %d, d = %5d: %8d bytes (worst %d), %.1f for each difference, on average of %d", n, c.d, sum/rounds, worst, per, rounds)
		if per > c.most {
			t.Errorf("d = %d: %.1f bytes a difference, want at most %.0f", c.d, per, c.most)
		}
	}
}

func TestRemoveUndoesAdd(t *testing.T) {
	s := NewSketch(Key{1}, 100)
	for i := range uint64(50) {
		s.Add(i * 77)
	}
	for i := range uint64(50) {
		s.Remove(i * 77)
	}
	if s.Size() != 0 || slices.ContainsFunc(s.Cells(), func(c Cell) bool { return c != Cell{} }) {
		t.Fatal("what was removed is still there")
	}
}

// A sender with another key, or with made-up cells, is found out or finds
// nothing, and never keeps us busy.
func TestNonsenseEnds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	d := NewDecoder(Key{1})
	for range 50 {
		cells := make([]Cell, 20)
		for i := range cells {
			x := rnd.Uint64() % 8
			cells[i] = Cell{x, d.key.check(x), 1}
		}
		if err := d.Add(cells, make([]Cell, 20)); err != nil {
			if !errors.Is(err, ErrCells) {
				t.Fatal(err)
			}
			return
		}
	}
	if d.Done() {
		t.Fatal("cells without sense are taken for a set")
	}
}

func FuzzCells(f *testing.F) {
	f.Add(AppendCells(nil, 1000, 0, sketch(Key{}, 20, []uint64{1, 2, 3}).Cells()), uint64(1000), 0)
	f.Fuzz(func(t *testing.T, b []byte, size uint64, first int) {
		cells, err := ReadCells(b, size, first, 64)
		if err != nil {
			if !errors.Is(err, ErrCells) {
				t.Fatal(err)
			}
			return
		}
		again, err := ReadCells(AppendCells(nil, size, first, cells), size, first, 64)
		if err != nil || !slices.Equal(cells, again) {
			t.Fatalf("%v: %v, %v", err, cells, again)
		}
		_ = NewDecoder(Key{9}).Add(cells, make([]Cell, len(cells)))
	})
}

func BenchmarkSketch(b *testing.B) {
	s := NewSketch(Key{1}, 4096)
	var id [32]byte
	for i := 0; b.Loop(); i++ {
		binary.LittleEndian.PutUint64(id[:], uint64(i))
		s.Add(s.Key().Symbol(id[:]))
	}
}
