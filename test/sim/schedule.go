package main

import (
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
)

type result struct {
	seed            uint64
	nodes, sites    int
	faults          []string
	writes          int
	messages        int
	bytes           int64
	virtual         time.Duration
	settled         time.Duration // from the heal until everybody has all
	trace           string
	spread          spread // in a large fleet: of one edit after all is healed
	events          int
	restored, clock int
}

// run draws a schedule from a seed, plays it, heals everything and looks at what
// came out.
func run(seed uint64, nodes, steps int) (r result) {
	return play(newWorld(seed, nodes), steps)
}

// play plays a world's schedule.
func play(w *world, steps int) (r result) {
	seed, nodes := w.seed, len(w.boxes)
	r = result{seed: seed, nodes: nodes}
	fault := w.truth.fault
	for _, b := range w.boxes {
		if b.st != nil {
			continue
		}
		if err := b.start(); err != nil {
			fault("%v", err)
			r.faults = w.truth.faults
			return r
		}
	}
	s := &schedule{world: w}
	for _, b := range w.boxes { // who joins takes the fleet's time
		if w.large && b.index%max(len(w.boxes)/manyBoxes, 1) != 0 {
			continue // a change that all write is as many frames as the fleet has boxes, squared
		}
		_ = b.write(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: fmt.Sprint("joined ", b.index), Field: "f"}, nil)
	}
	w.run(time.Minute)
	for range steps {
		s.step()
		w.run(w.now + w.between(0, 20*time.Second))
	}
	s.heal()
	healed := w.now
	// A link that died in the last cut is noticed within 40 s; only then does its
	// end know what it owes.
	w.run(w.now + time.Minute)
	for i := 0; i < 120 && !w.settled(); i++ {
		w.run(w.now + 30*time.Second)
	}
	r.settled = w.now - healed
	// A box that finds a neighbour again goes by another neighbour's place no more:
	// what it owes to it is looked at anew, after a pause of 15 minutes at most.
	for i := 0; i < 4; i++ {
		w.run(w.now + 16*time.Minute)
		if w.settled() {
			break
		}
	}
	w.run(w.now + time.Minute) // acknowledgements
	w.check()
	if w.large {
		b := w.boxes[nodes/2]
		for i := nodes / 2; i < nodes && !b.synced; i++ {
			b = w.boxes[i] // others wait for what a box writes whose clock is ahead
		}
		_ = b.write(anyCell(w), nil) // a link that a cut ended is made at its next use
		w.run(w.now + 5*time.Minute)
		r.spread = w.probe(b)
	}
	said := w.messages
	w.run(w.now + 3*time.Hour)
	if n := w.messages - said; n > 0 {
		fault("%d messages in three idle hours", n)
	}
	for _, d := range w.dropped {
		fault("%s", d)
	}
	r.faults, r.writes, r.messages, r.bytes, r.virtual, r.trace, r.sites, r.events = w.truth.faults, w.writes, w.messages, w.bytes, w.now, w.sum(), w.sites, w.steps
	return r
}

// settled says whether nobody owes anything.
func (w *world) settled() bool {
	for _, b := range w.boxes {
		st := b.st.Status()
		if st.Outbox > 0 || st.Held > 0 || b.st.Doubts() {
			return false
		}
		for _, p := range st.Peers {
			if p.Owed > 0 {
				return false
			}
		}
	}
	return true
}

type schedule struct {
	*world
	restored bool // one disk was set back: two at once do lose data
}

// cell draws where to write: mostly where others write, too.
func (s *schedule) cell(b *box) crdt.Cell {
	scope := crdt.Fleet
	switch s.rng.IntN(4) {
	case 0:
		scope = crdt.SiteScope(b.site)
	case 1:
		if !s.large {
			scope = crdt.SiteScope(s.boxes[s.rng.IntN(len(s.boxes))].site)
		}
	}
	c := crdt.Cell{Scope: scope, Table: 1, Record: fmt.Sprint("shared ", s.rng.IntN(1+int(s.seed%3))), Field: "f"}
	if s.people > 0 && scope == crdt.Fleet && s.rng.IntN(2) == 0 {
		return user(s.rng.IntN(s.people))
	}
	if s.rng.IntN(3) == 0 {
		c.Record = fmt.Sprint("own ", b.index, " ", s.writes)
	}
	return c
}

// step lets one thing happen.
func (s *schedule) step() {
	b := s.boxes[s.rng.IntN(len(s.boxes))]
	if b.st == nil {
		s.must(b.start())
		return
	}
	kind := s.rng.IntN(18)
	s.story.Info("Step", "box", b.index, "kind", kind)
	switch kind {
	case 0: // a cut through the fleet
		n := 2 + s.rng.IntN(3)
		group := make([]int, len(s.boxes))
		for i := range group {
			group[i] = s.rng.IntN(n)
		}
		s.cut(func(b *box) int { return group[b.index] })
	case 1: // one box alone
		s.cut(func(x *box) int {
			if x == b {
				return 1
			}
			return 0
		})
	case 2:
		s.cut(func(*box) int { return 0 })
	case 3: // power
		b.off(true)
		if s.rng.IntN(2) == 0 {
			s.must(b.start())
		}
	case 4: // power in the middle of something
		b.medium.CrashAt(1 + s.rng.IntN(4))
		s.write(b)
		b.medium.CrashAt(1 << 30)
		b.off(true)
		s.must(b.start())
	case 5: // an orderly restart
		b.off(false)
		s.must(b.start())
	case 6: // the time of day jumps
		if b.synced {
			return
		}
		b.skew = []time.Duration{0, -10 * 365 * 24 * time.Hour, 10 * 365 * 24 * time.Hour, -3 * time.Minute, beginning.Sub(time.Unix(0, 0)) * -1, 4 * time.Minute, 8 * time.Minute, 40 * time.Minute}[s.rng.IntN(8)]
	case 7:
		b.image = b.medium.Snapshot()
	case 8: // an old image of the disk, once others have what this box wrote since
		s.restore(b)
	case 9: // no space for a while
		b.medium.SetFree(0)
		s.write(b)
		s.at(s.between(0, 10*time.Second), func() { b.medium.SetFree(1 << 30) })
	case 10: // somebody opens a page and leaves it open
		c := s.cell(b)
		b.tabs = append(b.tabs, b.open(c))
	case 11: // and saves it later
		if n := len(b.tabs); n > 0 {
			t := b.tabs[s.rng.IntN(n)]
			_ = b.write(t.cell, &t)
		}
	case 12: // two have the same page open and both save, the one twice
		c := s.cell(b)
		t := b.open(c)
		s.write(b)
		_ = b.write(c, nil)
		_ = b.write(c, &t)
	case 13:
		s.restore(b)
	default:
		for range 1 + s.rng.IntN(4) {
			s.write(b)
		}
	}
}

func (s *schedule) write(b *box) {
	if b.st != nil {
		_ = b.write(s.cell(b), nil) // an error is an answer: it is not counted as written
	}
}

func (s *schedule) must(err error) {
	if err != nil {
		s.truth.fault("%v", err)
	}
}

// restore sets a disk back. What this box alone had would be lost, as it is with
// a box that burns; so it waits until others have all.
func (s *schedule) restore(b *box) {
	if b.image == nil || s.restored {
		return
	}
	s.cut(func(*box) int { return 0 })
	for _, o := range s.boxes { // who is off has nothing to say afterwards
		if o.st == nil {
			s.must(o.start())
		}
	}
	s.run(s.now + 2*time.Minute)
	if b.st == nil {
		return
	}
	if st := b.st.Status(); st.Only.Changes > 0 || st.ReadOnly != nil || st.Outbox > 0 || st.Held > 0 {
		return
	}
	s.restored = true
	actor := b.st.Status().Actor
	b.off(false)
	b.medium.Restore(b.image)
	s.must(b.start())
	// It is noticed at the first contact about something, not before (state.md §8,
	// known limit); so all have something to say about everything.
	// What it writes before that is only safe where nobody else writes.
	for i := range s.rng.IntN(2) {
		_ = b.write(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: fmt.Sprint("restored ", i), Field: "f"}, nil)
	}
	all := s.boxes
	if s.large {
		all = s.concern(b)
	}
	for _, o := range all {
		if o.st != nil {
			for _, scope := range []crdt.Scope{crdt.Fleet, crdt.SiteScope(o.site)} {
				_ = o.write(crdt.Cell{Scope: scope, Table: 1, Record: fmt.Sprint("contact ", o.index), Field: "f"}, nil)
			}
		}
	}
	if s.rng.IntN(2) == 0 {
		s.run(s.now + 3*time.Minute)
		return
	}
	// Or a cut comes while it is still being told.
	for range 180 {
		s.run(s.now + time.Second)
		if b.st.Status().Actor != actor {
			break
		}
	}
	if b.st.Status().Actor == actor {
		return
	}
	group := make([]int, len(s.boxes))
	for i := range group {
		group[i] = s.rng.IntN(2)
	}
	s.cut(func(b *box) int { return group[b.index] })
}

// heal ends all faults and gives everybody something to say.
func (s *schedule) heal() {
	s.cut(func(*box) int { return 0 })
	for _, b := range s.boxes {
		b.medium.SetFree(1 << 30)
		b.medium.Heal()
		b.medium.CrashAt(1 << 30)
		if b.st == nil {
			s.must(b.start())
		}
	}
}
