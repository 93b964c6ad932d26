package main

import (
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// ahead: a box's clock is two hours ahead, and it writes: over what it wrote before,
// twice, by an old tab, what nobody else has. Others tell it, or it is synchronised;
// then its clock is right, all have what it wrote, and none of it comes back when its
// time has come.
func ahead(w *world, synced bool) bool {
	b := w.boxes[len(w.boxes)-1]
	for _, x := range w.boxes {
		x.synced = x != b // who is not is believed only if another agrees
	}
	cells := make([]crdt.Cell, 6)
	for i := range cells {
		cells[i] = anyCell(w)
		cells[i].Record = fmt.Sprint("hasty", i)
	}
	_ = b.write(cells[0], nil)
	_ = b.write(cells[1], nil)
	_ = b.write(cells[4], nil)
	_ = w.boxes[0].write(cells[2], nil)
	w.run(w.now + 10*minute)
	alone := func(x *box) int {
		if x == b {
			return 1
		}
		return 0
	}
	w.cut(alone)
	b.skew = 2 * time.Hour
	tab := b.open(cells[2])
	for range 2 {
		for _, c := range cells[:5] {
			_ = b.write(c, nil)
		}
	}
	_ = b.write(cells[2], &tab)
	w.run(w.now + minute)
	if synced {
		b.skew, b.synced = 0, true
		_ = b.write(cells[5], nil)
	}
	w.cut(func(*box) int { return 0 })
	w.run(w.now + 10*minute)
	for _, x := range w.boxes {
		if n := x.st.Status().Held; n > 0 {
			w.truth.fault("%s holds %d changes of a box whose clock was put right", x, n)
		}
	}
	_ = w.boxes[0].write(cells[0], nil)
	_ = w.boxes[1].write(cells[2], nil)
	w.run(w.now + 10*minute)
	w.cut(alone)
	_ = b.write(cells[1], nil)
	if !synced {
		b.off(true)
		if err := b.start(); err != nil {
			w.truth.fault("%v", err)
		}
	}
	_ = b.write(cells[3], nil)
	w.cut(func(*box) int { return 0 })
	w.run(w.now + 10*minute)
	for _, x := range w.boxes {
		if n := x.st.Status().Held; n > 0 {
			w.truth.fault("%s holds %d changes of a box whose clock was put right a while ago", x, n)
		}
	}
	w.run(w.now + 3*time.Hour)
	return true
}
