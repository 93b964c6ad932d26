package crdt

import (
	"bytes"
	"slices"
)

// A node whose clock was ahead takes back what it wrote under a time that had not
// come, once it has written the same anew under the right time (state.md §5). It
// says so in a change like any other: a void, which stays. So whoever merged what
// was taken back, holds it until its time, or meets it years later on an old disk,
// ends with the same state.

// ExtFormer is the signed extra of a change that was written again: the dots under
// which it was written before, the last first, as an array of [actor, stamp]. Who
// saw it under one of these has seen it.
const ExtFormer uint64 = 3

const maxFormer = 4

// Former lists the dots under which c was written before.
func (c *Change) Former() []Dot { return c.former }

// FormerExt is ext with what says that a change is of written again.
func FormerExt(ext map[uint64][]byte, of *Change) map[uint64][]byte {
	dots := append([]Dot{of.dot}, of.former...)
	wire := make([][2]uint64, 0, maxFormer)
	for _, d := range dots[:min(len(dots), maxFormer)] {
		wire = append(wire, [2]uint64{uint64(d.Actor), uint64(d.Stamp)})
	}
	b, err := encMode.Marshal(wire)
	if err != nil {
		panic(err) // numbers
	}
	out := map[uint64][]byte{ExtFormer: b}
	for k, v := range ext {
		if k != ExtFormer {
			out[k] = v
		}
	}
	return out
}

func decodeFormer(b []byte) (out []Dot) {
	var wire [][2]uint64
	if err := decMode.Unmarshal(b, &wire); err != nil || len(wire) > maxFormer {
		return nil
	}
	for _, d := range wire {
		out = append(out, Dot{ActorID(d[0]), Stamp(d[1])})
	}
	return out
}

// saw says that a context covers e, under whatever dot.
func (s *Set) saw(ctx Context, e *entry) bool {
	return ctx.Covers(e.dot) || len(s.former) > 0 && slices.ContainsFunc(s.former[e.id], ctx.Covers)
}

// TableVoid has what nodes took back, in every scope but trust; record: the node,
// field: the first of the names, value: see VoidWrites. Only the node itself can
// write there. It is the one table that merging knows; neither it nor a final is
// taken back.
//
// Changes are named one by one, by the beginning of their ids: what the same actor
// wrote between them, or under the same stamp, on a disk that was set back, nobody
// takes back.
const TableVoid uint16 = 0x03ff

const (
	voidName = 8   // bytes of an id that name a change among all of a node
	maxVoids = 400 // names in one write
)

// VoidWrites takes back changes of a node: each write is for a change of its own.
func VoidWrites(node NodeID, ids []ID) (out []Write) {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	for part := range slices.Chunk(ids, maxVoids) {
		w := Write{Table: TableVoid, Record: string(node[:]), Field: string(part[0][:voidName])}
		for _, id := range part {
			w.Value = append(w.Value, id[:voidName]...)
		}
		out = append(out, w)
	}
	return out
}

// voidShape says what is wrong with a write of TableVoid; "" if nothing is.
func voidShape(c *Change, w *Write) string {
	ok := len(w.Field) == voidName && len(w.Value) >= voidName && len(w.Value)%voidName == 0
	switch {
	case c.Scope == Trust:
		return "nothing is taken back in the trust scope"
	case len(c.Writes) != 1:
		return "what takes back stands alone"
	case w.Record != string(c.Node[:]):
		return "a node takes back only what it wrote itself"
	case w.Flags != 0 || !ok:
		return "what is taken back is named by the beginnings of ids"
	}
	return ""
}

// Void says whether c is taken back by its own node.
func (s *Set) Void(c *Change) bool {
	return len(s.voids) > 0 && c.Writes[0].Flags&Final == 0 && c.Writes[0].Table != TableVoid && s.void(c.Node, c.id)
}

func (s *Set) void(node NodeID, id ID) bool {
	by, ok := s.voids[[voidName]byte(id[:])]
	return ok && by == node
}

// voided makes a write of TableVoid count.
func (s *Set) voided(c *Change, w *Write, fx *Effect) {
	if s.voids == nil {
		s.voids = map[[voidName]byte]NodeID{}
	}
	for name := range slices.Chunk(w.Value, voidName) {
		s.voids[[voidName]byte(name)] = c.Node
	}
	gone := func(v version) bool {
		return v.flags&Final == 0 && v.e.node == c.Node && s.void(c.Node, v.e.id)
	}
	sweep := func(table uint16, name string, r *record) {
		own := false
		for i := 0; i < len(r.fields); i++ {
			f := &r.fields[i]
			n := 0
			for _, v := range f.vs {
				if gone(v) {
					n++
				}
			}
			if n == 0 {
				continue
			}
			if !own { // of a base, perhaps
				own = true
				r = s.record(table, name)
				f = &r.fields[i]
			}
			cell := Cell{s.scope, table, name, f.name}
			kept := make([]version, 0, len(f.vs)-n)
			for _, v := range f.vs {
				if !gone(v) {
					kept = append(kept, v)
				}
			}
			for _, v := range f.vs {
				if gone(v) {
					if !says(kept, v.value) {
						fx.Displaced = append(fx.Displaced, Displaced{cell, s.export(v), c.id})
					}
					s.release(v.e, fx)
				}
			}
			fx.Cells = append(fx.Cells, cell)
			if len(kept) > 0 {
				f.vs = kept
				continue
			}
			r.fields = append(r.fields[:i:i], r.fields[i+1:]...)
			i--
		}
	}
	for table := range s.everyTable() {
		if table == TableVoid {
			continue
		}
		names := s.Records(table) // sorted: what is displaced comes in the same order everywhere
		for _, name := range names {
			sweep(table, name, s.look(table, name))
		}
	}
	sortCells(fx.Cells)
}

// everyTable has the tables with a record, here or in the base.
func (s *Set) everyTable() map[uint16]bool {
	out := map[uint16]bool{}
	for t := range s.tables {
		out[t] = true
	}
	if s.base != nil {
		for t := range s.base.tables {
			out[t] = true
		}
	}
	return out
}

func says(vs []version, value []byte) bool {
	for _, v := range vs {
		if bytes.Equal(v.value, value) {
			return true
		}
	}
	return false
}

// After lists the live changes whose stamp is later than s, in no order.
func (s *Set) After(stamp Stamp) (out []ID) {
	look := func(e *entry) {
		if e.dot.Stamp > stamp {
			out = append(out, e.id)
		}
	}
	s.live.each(look)
	if s.base != nil {
		s.base.live.each(func(e *entry) {
			if s.live.get(e.id) == nil && !s.lost[e.id] {
				look(e)
			}
		})
	}
	return out
}
