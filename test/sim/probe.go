package main

import (
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// A spread is how one edit came to all boxes.
type spread struct {
	hops, median int           // links that it took, at most, and to half of the boxes
	last         time.Duration // when the last box had it
	bytes        int64         // of all that was sent meanwhile
	frames       int
}

// probe lets a box write, and follows the change.
func (w *world) probe(b *box) (s spread) {
	begun, bytes, frames := w.now, w.bytes, w.messages
	hops := map[*box]int{b: 0}
	cell := crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "probe", Field: "f"}
	w.hear = func(from, to *box) {
		if _, has := hops[to]; has {
			return
		}
		if n, sent := hops[from]; sent && len(to.visible(cell)) > 0 { // by what it says: it may be written again
			hops[to] = n + 1
			s.last = w.now - begun
		}
	}
	if err := b.write(cell, nil); err != nil {
		w.truth.fault("%s: %v", b, err)
	}
	w.run(w.now + 5*time.Minute)
	w.hear = nil
	if len(hops) < len(w.boxes) {
		w.truth.fault("after 5 minutes %d of %d boxes have an edit", len(hops), len(w.boxes))
	}
	var all []int
	for _, n := range hops {
		all = append(all, n)
	}
	slices.Sort(all)
	s.hops, s.median = all[len(all)-1], all[len(all)/2]
	s.bytes, s.frames = w.bytes-bytes, w.messages-frames
	return s
}
