package main

import (
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
)

// A directed play is a schedule for one thing that chance rarely brings about. It says
// whether the world's fleet was fit for it.
type directed struct {
	what    string
	play    func(*world) bool
	founded bool // by a root, with grants
}

var plays = []directed{
	{"a change is carried by hand, without the one before it", carried, false},
	{"an old image, a first contact, and two writes at once", witnessed, false},
	{"an old image, and what it lost is with who has nothing to say", unasked, false},
	{"a box was away for hours after it wrote", late, false},
	{"a box was away, and others went round it", round, false},
	{"a member hands one box changes whose ids cancel each other", cancelled, false},
	{"one box's program fails on a change", poisoned, false},
	{"a clock was ahead, and others say so", func(w *world) bool { return ahead(w, false) }, false},
	{"a clock was ahead, and is synchronised", func(w *world) bool { return ahead(w, true) }, false},
	{"a box is revoked, and writes on", revoked, true},
	{"an issuer is revoked, and some of those whom it admitted are kept", kept, true},
	{"a box is revoked on one side of a cut, and admitted again on the other", readmitted, true},
	{"two issuers revoke each other", mutual, true},
	{"a change comes before the grant of its author", early, true},
	{"a disk is copied, and both run", copied, true},
	{"a disk is copied into another machine, and both run", moved, true},
}

// direct plays a play and looks at what came out.
func direct(seed uint64, nodes int, p directed) (faults []string, fit bool) {
	w := newWorld(seed, nodes)
	if p.founded {
		if nodes < 4 {
			return nil, false
		}
		if err := w.found(); err != nil {
			return []string{err.Error()}, true
		}
	}
	for _, b := range w.boxes {
		if err := b.start(); err != nil {
			return []string{err.Error()}, true
		}
		if p.founded && b.index == 0 {
			w.enrol()
		}
		_ = b.write(anyCell(w), nil)
	}
	w.run(10 * minute)
	if fit = p.play(w); !fit {
		return nil, false
	}
	w.cut(func(*box) int { return 0 })
	w.run(w.now + 30*minute)
	w.check()
	w.strangers()
	said := w.messages
	w.run(w.now + 3*time.Hour)
	if n := w.messages - said; n > 0 {
		w.truth.fault("%d messages in three idle hours", n)
	}
	for _, d := range w.dropped {
		w.truth.fault("%s", d)
	}
	return w.truth.faults, true
}

// strangers looks whether an edit goes over links that nobody needs: of two boxes
// that are no neighbours in the tree, and of different sites.
func (w *world) strangers() {
	if len(w.out) > 0 {
		return // it is in nobody's way that it does not have what others have
	}
	w.meter = map[[2]int]int64{}
	_ = w.boxes[0].write(anyCell(w), nil)
	w.run(w.now + 10*minute)
	for i, a := range w.boxes {
		for j, b := range w.boxes[:i] {
			near := func(a, b *box) bool {
				return slices.Contains(a.tree().Neighbours(a.id, topology{a}.down), [16]byte(b.id))
			}
			if n := w.meter[[2]int{j, i}]; n > 0 && a.site != b.site && !near(a, b) && !near(b, a) {
				w.truth.fault("%s and %s are no neighbours, and exchanged %d bytes over an edit", a, b, n)
			}
		}
	}
	w.meter = nil
}

// late: what a box wrote comes to the others hours later.
func late(w *world) bool {
	b := w.boxes[len(w.boxes)-1]
	w.cut(func(x *box) int {
		if x == b {
			return 1
		}
		return 0
	})
	w.run(w.now + minute)
	_ = b.write(anyCell(w), nil)
	w.run(w.now + 3*time.Hour)
	return true
}

// round: while a box is off its neighbours exchange with each other, as guests.
func round(w *world) bool {
	for _, b := range w.boxes {
		b.off(false)
		w.run(w.now + minute)
		for _, o := range w.boxes {
			if o.st != nil {
				_ = o.write(anyCell(w), nil)
			}
		}
		w.run(w.now + 10*minute)
		if err := b.start(); err != nil {
			w.truth.fault("%v", err)
			return true
		}
		w.run(w.now + 20*minute)
	}
	return true
}

// carried: somebody saves a page, and another screen of that box saves the same
// page as it was before. The second change alone comes to a box that is cut off,
// as from a salvaged disk. Who writes there saw the second, not the first.
func carried(w *world) bool {
	if len(w.boxes) < 2 {
		return false
	}
	b, o := w.boxes[0], w.boxes[1]
	w.cut(func(x *box) int { return x.index })
	w.run(w.now + minute)
	c := anyCell(w)
	old := b.open(c)
	_ = b.write(c, nil)
	_ = b.write(c, &old)
	raw := b.raw(b.last)
	if raw == nil {
		w.truth.fault("%s: the change it wrote is not on its disk", b)
		return true
	}
	if v, err := o.st.Take(raw); err != nil || v.Outcome != replica.Accept {
		w.truth.fault("%s: %v, %v", o, v, err)
	}
	o.after()
	_ = o.write(c, nil)
	return true
}

// setBack gives a box the state of its disk of an earlier moment, and says so.
func (b *box) setBack(image []byte) {
	b.off(false)
	b.medium.Restore(image)
	if err := b.start(); err != nil {
		b.w.truth.fault("%v", err)
	}
}

// witnessed: a box lost a write that a neighbour has. When that neighbour has
// said its first word, somebody at the box saves the page twice.
func witnessed(w *world) bool {
	if len(w.boxes) < 2 {
		return false
	}
	b := w.boxes[1]
	c := anyCell(w)
	image := b.medium.Snapshot()
	_ = b.write(c, nil)
	w.run(w.now + 10*minute)
	near := w.plan.Neighbours(b.id, func([16]byte) bool { return false })
	if len(near) == 0 {
		return false
	}
	o := w.byID[near[0]]
	w.cut(func(x *box) int { return x.index })
	w.run(w.now + 2*minute)
	b.setBack(image)
	w.run(w.now + 2*minute)
	_ = o.write(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "contact", Field: "f"}, nil)
	heard := false
	w.hear = func(from, to *box) {
		if heard || to != b || from != o {
			return
		}
		heard = true
		_ = b.write(c, nil)
		_ = b.write(c, nil)
	}
	w.cut(func(x *box) int {
		if x == b || x == o {
			return 0
		}
		return 1 + x.index
	})
	w.run(w.now + 10*minute)
	w.hear = nil
	if !heard {
		w.truth.fault("%s never heard of %s", b, o)
	}
	return true
}

// unasked: a box lost a change of its own site that only the stand-in has. All
// it meets afterwards of itself is a neighbour of the tree; the stand-in has
// nothing to say.
func unasked(w *world) bool {
	for _, b := range w.boxes {
		k, ok := w.plan.StandIn(b.site)
		near := w.plan.Neighbours(b.id, func([16]byte) bool { return false })
		if !ok || len(near) != 1 || len(w.plan.Nodes(b.site)) != 1 || w.byID[near[0]].site == k || slices.Contains(b.stands, k) {
			continue
		}
		image := b.medium.Snapshot()
		_ = b.write(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "since", Field: "f"}, nil)
		_ = b.write(crdt.Cell{Scope: crdt.SiteScope(b.site), Table: 1, Record: "lost", Field: "f"}, nil)
		w.run(w.now + 10*minute)
		b.setBack(image)
		w.run(w.now + time.Minute)
		_ = w.byID[near[0]].write(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "contact", Field: "f"}, nil)
		return true
	}
	return false
}
