package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
)

// truth is what must come out, kept by a deliberately dumb twin: each write is a
// number, and knows which writes whoever made it had before their eyes. What
// nobody has seen and overwritten is still there at the end, side by side.
type truth struct {
	writes map[int]*written
	faults []string
}

type written struct {
	cell  crdt.Cell
	saw   []int
	acked bool // on disk, as whoever wrote it was told
	by    int
}

// tab is a cell as somebody read it, perhaps long ago.
type tab struct {
	cell  crdt.Cell
	token crdt.Context
	saw   []int
}

func newTruth() truth { return truth{writes: map[int]*written{}} }

func (t *truth) fault(format string, args ...any) {
	t.faults = append(t.faults, fmt.Sprintf(format, args...))
}

// visible are the writes that a box shows in a cell.
func (b *box) visible(c crdt.Cell) (out []int) {
	b.st.View(func(v replica.View) {
		for _, x := range v.Set(c.Scope).Versions(c) {
			n, _ := strconv.Atoi(strings.TrimSuffix(string(x.Value), filler))
			out = append(out, n)
		}
	})
	slices.Sort(out)
	return slices.Compact(out) // a disk set back makes two of one that is written again; it reads as one
}

// open reads a cell as a person does who will write it later.
func (b *box) open(c crdt.Cell) tab {
	x := tab{cell: c, saw: b.visible(c)}
	b.st.View(func(v replica.View) { x.token = v.Set(c.Scope).Known(c) })
	return x
}

// write writes a cell: by what the box shows now, or by an old tab.
func (b *box) write(c crdt.Cell, old *tab) error {
	w := b.w
	w.writes++
	n := w.writes
	x := &written{cell: c, saw: b.visible(c), by: b.index}
	m := replica.Mutation{Scope: c.Scope, Writes: []crdt.Write{{Table: c.Table, Record: c.Record, Field: c.Field, Value: []byte(strconv.Itoa(n) + filler)}}}
	if old != nil {
		x.saw = old.saw
		if !b.tokenless {
			m.Token = map[crdt.Cell]crdt.Context{c: old.token}
		}
	}
	w.truth.writes[n] = x
	r, err := b.st.Commit(m)
	b.last = r.ID
	x.acked = err == nil
	b.after()
	return err
}

// filler makes a value as long as a person's name.
const filler = " Schmidt-Beaumont"

// expected are the writes that nobody overwrote who had seen them. A write whose
// author got an error may have happened or not: those that are shown somewhere
// did.
func (t *truth) expected(shown map[int]bool) map[crdt.Cell][]int {
	over := map[int]bool{}
	var cover func(n int)
	cover = func(n int) {
		if over[n] {
			return
		}
		over[n] = true
		if x := t.writes[n]; x != nil {
			for _, s := range x.saw {
				cover(s)
			}
		}
	}
	for n, x := range t.writes {
		if x.acked || shown[n] {
			for _, s := range x.saw {
				cover(s)
			}
		}
	}
	out := map[crdt.Cell][]int{}
	for n, x := range t.writes {
		if (x.acked || shown[n]) && !over[n] {
			out[x.cell] = append(out[x.cell], n)
		}
	}
	for _, list := range out {
		slices.Sort(list)
	}
	return out
}

// check compares all boxes with what must have come out.
func (w *world) check() {
	t := &w.truth
	cells := map[crdt.Cell]bool{}
	for _, x := range t.writes {
		cells[x.cell] = true
	}
	shown := map[int]bool{}
	for _, b := range w.boxes {
		for c := range cells {
			if (topology{b}).Holds(c.Scope) {
				for _, n := range b.visible(c) {
					shown[n] = true
				}
			}
		}
	}
	want := t.expected(shown)
	for _, c := range slices.SortedFunc(maps.Keys(cells), compareCells) {
		for _, b := range w.boxes {
			if !(topology{b}).Holds(c.Scope) || w.out[b] {
				continue
			}
			if got := b.visible(c); !slices.Equal(got, want[c]) {
				t.fault("%s shows %v in cell %s of %s, want %v", b, got, c.Record, c.Scope, want[c])
			}
		}
	}
	prints := map[crdt.Scope]crdt.Fingerprint{}
	for _, b := range w.boxes {
		st := b.st.Status()
		if w.out[b] {
			continue
		}
		if st.Held+st.Outbox > 0 {
			t.fault("%s holds %d changes back and still has %d for others", b, st.Held, st.Outbox)
		}
		if st.ReadOnly != nil {
			t.fault("%s takes no writes: %v", b, st.ReadOnly)
		}
		for _, p := range st.Peers {
			if p.Owed > 0 {
				t.fault("%s owes box %d %d changes", b, w.byID[p.Peer].index, p.Owed)
			}
		}
		for _, s := range st.Scopes {
			if !s.Holds {
				continue
			}
			switch first, ok := prints[s.Scope]; {
			case !ok:
				prints[s.Scope] = s.Fingerprint
			case first != s.Fingerprint:
				t.fault("%s has another fingerprint of %s", b, s.Scope)
			}
		}
	}
}

func compareCells(a, b crdt.Cell) int {
	return strings.Compare(string(a.Scope)+"/"+a.Record, string(b.Scope)+"/"+b.Record)
}

const minute = time.Minute

// anyCell is one that all hold.
func anyCell(*world) crdt.Cell {
	return crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "any", Field: "f"}
}
