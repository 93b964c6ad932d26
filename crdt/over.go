package crdt

import (
	"maps"
	"slices"

	"carrierclass.net/ccnode/crdt/riblt"
)

// Over returns a set that begins as base and costs what it comes to differ in: a
// simulation gives a thousand boxes one directory. It does what a set to which the
// same changes were added does. base must not be altered from then on; sets over
// it share it, so they are not safe for concurrent use with each other.
func Over(base *Set) *Set {
	if base.base != nil {
		panic("crdt: a set over a set over a set")
	}
	s := NewSet(base.scope)
	s.base, s.hash, s.size = base, base.hash, base.size
	s.voids, s.former = maps.Clone(base.voids), maps.Clone(base.former)
	s.twins = maps.Clone(base.twins)
	for d, twins := range s.twins {
		s.twins[d] = slices.Clip(twins)
	}
	return s
}

// Of what is over a base, live, dots and tables have only what is otherwise than
// there: in dots a nil entry is gone, of live lost says so.

// entry is a live change, nil if there is none.
func (s *Set) entry(id ID) *entry {
	if e := s.live.get(id); e != nil || s.base == nil || s.lost[id] {
		return e
	}
	return s.base.live.get(id)
}

// own is an entry that may be altered.
func (s *Set) own(e *entry) *entry {
	if s.base == nil {
		return e
	}
	if mine := s.live.get(e.id); mine != nil {
		return mine
	}
	if s.base.live.get(e.id) == nil {
		return e // it is being added
	}
	mine := *e
	s.live.put(&mine)
	return &mine
}

func (s *Set) drop(id ID) {
	s.live.drop(id)
	if s.base != nil && s.base.live.get(id) != nil {
		if s.lost == nil {
			s.lost = map[ID]bool{}
		}
		s.lost[id] = true
	}
}

// dot is the first live change of a dot, nil if there is none.
func (s *Set) dot(d Dot) *entry {
	if e, ok := s.dots[d]; ok || s.base == nil {
		return e
	}
	return s.base.dots[d]
}

func (s *Set) dropDot(d Dot) {
	if s.base != nil && s.base.dots[d] != nil {
		s.dots[d] = nil
		return
	}
	delete(s.dots, d)
}

// look is a record to read, nil if there is none.
func (s *Set) look(table uint16, rec string) *record {
	r := s.tables[table][rec]
	if r == nil && s.base != nil {
		r = s.base.tables[table][rec]
	}
	return r
}

// inherit is a record to alter that is not among our own yet.
func (s *Set) inherit(table uint16, rec string) *record {
	if s.base != nil {
		if r := s.base.tables[table][rec]; r != nil {
			return &record{fields: slices.Clone(r.fields), final: r.final}
		}
	}
	return &record{}
}

// based calls fn for the records of the base that are as they were there, until
// it returns false.
func (s *Set) based(table uint16, fn func(name string, r *record) bool) {
	if s.base == nil {
		return
	}
	own := s.tables[table]
	for name, r := range s.base.tables[table] {
		if own[name] == nil && !fn(name, r) {
			return
		}
	}
}

func (s *Set) basesMention(part []byte) (yes bool) {
	if s.base == nil {
		return false
	}
	for table := range s.base.tables {
		s.based(table, func(_ string, r *record) bool {
			yes = r.mentions(part)
			return !yes
		})
		if yes {
			return true
		}
	}
	return false
}

// overSketch is the base's sketch with what is otherwise here.
func (s *Set) overSketch(key riblt.Key) *riblt.Sketch {
	k := riblt.NewSketch(key, SketchCells)
	if b := s.base.Sketch(key); b != nil {
		k = b.Clone()
	} else {
		s.base.live.each(func(e *entry) { k.Add(key.Symbol(e.id[:])) })
	}
	s.live.each(func(e *entry) {
		if s.base.live.get(e.id) == nil {
			k.Add(key.Symbol(e.id[:]))
		}
	})
	for id := range s.lost {
		if s.live.get(id) == nil { // else it came back
			k.Remove(key.Symbol(id[:]))
		}
	}
	return k
}
