package crdt

import (
	"slices"

	"carrierclass.net/ccnode/crdt/riblt"
)

const (
	// SketchCells is how many cells of a set are kept: enough for some 2,700
	// differences, in 96 kB.
	SketchCells = 4096
	// SketchFrom is from how many live changes on it is worth keeping them; a
	// smaller set is gone through in a millisecond or two.
	SketchFrom = 4096
	// MaxSketches are kept of one set. Each costs 0.4 µs a change. The key is
	// drawn by who sends a sketch, at each start: one is our own, the others are
	// those of neighbours with which there was something to find out.
	MaxSketches = 4
)

// Sketch returns the first SketchCells cells of the live ids under a key, and
// keeps them as the set changes; it must not be altered, and be read before the
// next Add. The first time under a key costs a walk over the set. It is nil for a
// set that is too small to be worth it.
func (s *Set) Sketch(key riblt.Key) *riblt.Sketch {
	if s.size < SketchFrom {
		return nil
	}
	at := slices.IndexFunc(s.sketches, func(k *riblt.Sketch) bool { return k.Key() == key })
	if at < 0 {
		var k *riblt.Sketch
		if s.base != nil {
			k = s.overSketch(key)
		} else {
			k = riblt.NewSketch(key, SketchCells)
			s.live.each(func(e *entry) { k.Add(key.Symbol(e.id[:])) })
		}
		if len(s.sketches) < MaxSketches {
			s.sketches = append(s.sketches, nil)
		}
		at = len(s.sketches) - 1 // of the one that was used longest ago
		s.sketches[at] = k
	}
	k := s.sketches[at]
	copy(s.sketches[1:at+1], s.sketches[:at])
	s.sketches[0] = k
	return k
}

// sketch brings the kept sketches up to date.
func (s *Set) sketch(id ID, live bool) {
	for _, k := range s.sketches {
		symbol := k.Key().Symbol(id[:])
		if live {
			k.Add(symbol)
		} else {
			k.Remove(symbol)
		}
	}
}

// EachID calls fn for every live change, in no order.
func (s *Set) EachID(fn func(ID)) {
	s.live.each(func(e *entry) { fn(e.id) })
	if s.base == nil {
		return
	}
	s.base.live.each(func(e *entry) {
		if !s.lost[e.id] && s.live.get(e.id) == nil {
			fn(e.id)
		}
	})
}
