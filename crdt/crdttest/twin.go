// Package crdttest holds the laws of crdt: a deliberately dumb twin of the set,
// and a model of a fleet whose replicas write, stay away, go back in time and
// merge. Whatever obeys the laws here agrees with the twin after any schedule.
package crdttest

import (
	"bytes"
	"cmp"
	"slices"

	"carrierclass.net/ccnode/crdt"
)

// Twin keeps every change it was ever given and computes the live ones from
// the definition (state.md §3), slowly and without any cleverness.
type Twin struct {
	all map[crdt.ID]*crdt.Change
}

// NewTwin returns an empty twin.
func NewTwin() *Twin { return &Twin{map[crdt.ID]*crdt.Change{}} }

// Add puts a change in.
func (t *Twin) Add(c *crdt.Change) { t.all[c.ID()] = c }

type write struct {
	c *crdt.Change
	i int
}

func (w write) final() bool { return w.c.Writes[w.i].Flags&crdt.Final != 0 }

func less(a, b *crdt.Change) bool {
	x, y := a.ID(), b.ID()
	return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), bytes.Compare(x[:], y[:])) < 0
}

func (t *Twin) uncovered(w write) bool {
	return t.plain(w) && !t.void(w)
}

// void says that the node which wrote w took it back: by a write of TableVoid
// that nobody covered.
func (t *Twin) void(w write) bool {
	if w.final() || w.c.Writes[0].Table == crdt.TableVoid {
		return false
	}
	for _, o := range t.all {
		for j, y := range o.Writes {
			if y.Table != crdt.TableVoid || o.Node != w.c.Node {
				continue
			}
			id := w.c.ID()
			for v := y.Value; len(v) > 0; v = v[8:] {
				if bytes.Equal(v[:8], id[:8]) && t.plain(write{o, j}) {
					return true
				}
			}
		}
	}
	return false
}

func (t *Twin) plain(w write) bool {
	x := w.c.Writes[w.i]
	for _, o := range t.all {
		for j, y := range o.Writes {
			if y.Table != x.Table || y.Record != x.Record {
				continue
			}
			if y.Flags&crdt.Final != 0 {
				if !w.final() || less(o, w.c) {
					return false
				}
				continue
			}
			if !w.final() && !t.void(write{o, j}) && o.Cell(j) == w.c.Cell(w.i) && (y.Ctx.Covers(w.c.Dot()) || slices.ContainsFunc(w.c.Former(), y.Ctx.Covers)) {
				return false
			}
		}
	}
	return true
}

// Live lists the live changes, sorted by id.
func (t *Twin) Live() (out []crdt.ID) {
	for id, c := range t.all {
		for i := range c.Writes {
			if t.uncovered(write{c, i}) {
				out = append(out, id)
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b crdt.ID) int { return bytes.Compare(a[:], b[:]) })
	return out
}

// Versions lists the ids of a cell's versions, oldest first.
func (t *Twin) Versions(c crdt.Cell) (out []crdt.ID) {
	var ws []*crdt.Change
	for _, x := range t.all {
		for i := range x.Writes {
			if x.Cell(i) == c && x.Writes[i].Flags&crdt.Final == 0 && t.uncovered(write{x, i}) {
				ws = append(ws, x)
			}
		}
	}
	slices.SortFunc(ws, func(a, b *crdt.Change) int {
		if less(a, b) {
			return -1
		}
		return 1
	})
	for _, x := range ws {
		out = append(out, x.ID())
	}
	return out
}

// Cells lists every cell any change ever wrote.
func (t *Twin) Cells() (out []crdt.Cell) {
	seen := map[crdt.Cell]bool{}
	for _, x := range t.all {
		for i := range x.Writes {
			if c := x.Cell(i); !seen[c] {
				seen[c] = true
				out = append(out, c)
			}
		}
	}
	return out
}
