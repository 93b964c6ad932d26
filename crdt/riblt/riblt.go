// Package riblt finds out in which elements two sets differ, at a cost that
// depends on the differences and not on the sets: the rateless invertible Bloom
// lookup table of Yang, Gilad and Alizadeh ("Practical Rateless Set
// Reconciliation", SIGCOMM 2024), written from the paper.
//
// Each set is an endless row of cells. A symbol is in cell 0 and then in ever
// fewer: in cell i with probability 1/(1+i/2). One side sends cells until the
// other, which takes its own cells away, can read off what is left: about 1.35
// to 1.7 cells for each difference, whoever has it.
//
// Law: no I/O, no clock, no randomness, and the same cells on every machine.
package riblt

import (
	"errors"
	"math"
)

// A Cell is the sum of the symbols that fall into it.
type Cell struct {
	Sum   uint64 // of the symbols, by exclusive or
	Check uint32 // of their keyed hashes, by exclusive or
	Count int64  // how many there are
}

func (c *Cell) add(symbol uint64, check uint32, n int64) {
	c.Sum ^= symbol
	c.Check ^= check
	c.Count += n
}

// less takes another row's cell away.
func (c Cell) less(o Cell) Cell { return Cell{c.Sum ^ o.Sum, c.Check ^ o.Check, c.Count - o.Count} }

// places goes through the cells of one symbol: 0, and then further by what a
// generator seeded with the symbol says.
type places struct {
	state uint64
	at    uint64
}

// never is a place that no row reaches.
const never = 1 << 40

// next is the following place (paper, §4.2, α = 1/2): the distance is
// ⌈(i + 3/2)(u^(-1/2) − 1)⌉ for u uniform in (0, 1]. The conversions keep a
// compiler from fusing a product and a sum, which would round otherwise on
// another machine.
func (p *places) next() {
	p.state += 0x9e3779b97f4a7c15 // SplitMix64 (Steele, Lea, Flood, 2014)
	z := p.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	u := float64(z>>11+1) / (1 << 53)
	root := float64(1 / math.Sqrt(u))
	far := math.Ceil(float64(float64(p.at)+1.5) * float64(root-1))
	if far > never {
		far = never
	}
	p.at += max(1, uint64(far))
}

// A Sketch is the first cells of a set's row, kept as the set changes: 16 bytes
// a cell and about 2 ln(cells/2) additions a change.
type Sketch struct {
	key   Key
	cells []Cell
	size  int
}

// NewSketch returns the sketch of the empty set with so many cells.
func NewSketch(key Key, cells int) *Sketch { return &Sketch{key: key, cells: make([]Cell, cells)} }

// Key is what the symbols are made with.
func (s *Sketch) Key() Key { return s.key }

// Size is how many symbols the set has.
func (s *Sketch) Size() int { return s.size }

// Cells are the first cells of the row; they must not be altered, and change
// with the set.
func (s *Sketch) Cells() []Cell { return s.cells }

// Clone returns a copy that goes its own way.
func (s *Sketch) Clone() *Sketch {
	return &Sketch{key: s.key, cells: append([]Cell(nil), s.cells...), size: s.size}
}

// Add puts a symbol into the set, which must not have it.
func (s *Sketch) Add(symbol uint64) { s.apply(symbol, 1) }

// Remove takes a symbol of the set out of it.
func (s *Sketch) Remove(symbol uint64) { s.apply(symbol, -1) }

func (s *Sketch) apply(symbol uint64, n int64) {
	s.size += int(n)
	check := s.key.check(symbol)
	for p := (places{state: symbol}); p.at < uint64(len(s.cells)); p.next() {
		s.cells[p.at].add(symbol, check, n)
	}
}

// ErrCells means that cells are those of no set: the sender errs, or cheats.
var ErrCells = errors.New("these cells are no sketch of a set")

// A Decoder finds the differences between a row that arrives cell by cell and
// one's own.
type Decoder struct {
	key    Key
	cells  []Cell // theirs less ours, less what was found
	found  []found
	pure   []int // cells that may have one symbol only
	theirs []uint64
	ours   []uint64
}

type found struct {
	symbol uint64
	check  uint32
	sign   int64
	places
}

// NewDecoder returns a decoder that has no cell yet.
func NewDecoder(key Key) *Decoder { return &Decoder{key: key} }

// Len is how many cells were taken.
func (d *Decoder) Len() int { return len(d.cells) }

// Add takes the next cells of their row, and ours for the same places.
// ErrCells: more was found in them than can be in a set's.
func (d *Decoder) Add(theirs, ours []Cell) error {
	if len(theirs) != len(ours) {
		return ErrCells
	}
	first := len(d.cells)
	for i := range theirs {
		d.cells = append(d.cells, theirs[i].less(ours[i]))
	}
	for i := range d.found {
		d.take(&d.found[i])
	}
	for i := first; i < len(d.cells); i++ {
		d.look(i)
	}
	for len(d.pure) > 0 {
		at := d.pure[len(d.pure)-1]
		d.pure = d.pure[:len(d.pure)-1]
		c := d.cells[at]
		if !d.alone(c) {
			continue // emptied meanwhile
		}
		// Every symbol found empties a cell for good if the rows are honest.
		if len(d.found) > len(d.cells) {
			return ErrCells
		}
		d.found = append(d.found, found{symbol: c.Sum, check: c.Check, sign: c.Count, places: places{state: c.Sum}})
		if c.Count > 0 {
			d.theirs = append(d.theirs, c.Sum)
		} else {
			d.ours = append(d.ours, c.Sum)
		}
		d.take(&d.found[len(d.found)-1])
	}
	return nil
}

func (d *Decoder) alone(c Cell) bool {
	return (c.Count == 1 || c.Count == -1) && c.Check == d.key.check(c.Sum)
}

func (d *Decoder) look(at int) {
	if d.alone(d.cells[at]) {
		d.pure = append(d.pure, at)
	}
}

// take removes a found symbol from the cells there are; it goes on where it
// stopped when more arrive.
func (d *Decoder) take(f *found) {
	for ; f.at < uint64(len(d.cells)); f.next() {
		d.cells[f.at].add(f.symbol, f.check, -f.sign)
		d.look(int(f.at))
	}
}

// Done says that all differences are found: every symbol is in cell 0.
func (d *Decoder) Done() bool { return len(d.cells) > 0 && d.cells[0] == Cell{} }

// Theirs are the symbols found that only they have, Ours those that only we
// have; before Done, some of them.
func (d *Decoder) Theirs() []uint64 { return d.theirs }
func (d *Decoder) Ours() []uint64   { return d.ours }
