package crdttest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"carrierclass.net/ccnode/crdt"
)

// Rules are what a mutant of the model does wrong. The zero value does
// everything right.
type Rules struct {
	StampOrder     bool // decide what is covered by stamp order, not by context
	NoFreshOnStale bool // a stale browser tab writes under the node's own actor
	NoFreshOnRoll  bool // a disk rolled back goes on with its old actor
	ForgetsOwn     bool // what is written anew after a wrong clock forgets what its author had written before
}

// replica is one box of the model: a set, an actor, a clock of its own.
type replica struct {
	set    *crdt.Set
	log    []*crdt.Change // arrival order, for snapshots
	node   crdt.NodeID
	actor  uint32
	stamp  crdt.Stamp
	tab    map[crdt.Cell]tab // what somebody's browser still shows
	backup *replica
	mended bool // its clock was put right; twice, and set back between, is beyond this model
}

// tab is one reading a person has before them: what it showed, and its token.
type tab struct {
	ctx crdt.Context
	ids []crdt.ID
}

// Fleet is a model of several boxes. All of its choices come from one seed.
type Fleet struct {
	Rules Rules
	rnd   *rand.Rand
	boxes []*replica
	all   []*crdt.Change // every acknowledged write
	cells []crdt.Cell
	actor uint32
	// saw says, for each change, which changes its author had before it.
	saw map[crdt.ID]map[crdt.ID]bool
	// former is what a change was before it was written again.
	former map[crdt.ID]crdt.ID
}

// NewFleet makes n boxes.
func NewFleet(seed uint64, n int, rules Rules) *Fleet {
	f := &Fleet{Rules: rules, rnd: rand.New(rand.NewPCG(seed, 1)), saw: map[crdt.ID]map[crdt.ID]bool{}, former: map[crdt.ID]crdt.ID{}}
	for i := range 3 {
		for j := range 2 {
			f.cells = append(f.cells, crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: fmt.Sprintf("r%d", i), Field: string(rune('a' + j))})
		}
	}
	for i := range n {
		f.boxes = append(f.boxes, &replica{set: crdt.NewSet(crdt.Fleet), node: crdt.NodeID{byte(i + 1)}, actor: f.fresh(), tab: map[crdt.Cell]tab{}})
	}
	return f
}

func (f *Fleet) fresh() uint32 { f.actor++; return f.actor }

// Run makes n random steps, then lets everybody hear everything.
func (f *Fleet) Run(n int) error {
	for range n {
		r := f.boxes[f.rnd.IntN(len(f.boxes))]
		cell := f.cells[f.rnd.IntN(len(f.cells))]
		switch k := f.rnd.IntN(20); {
		case k < 9:
			if err := f.write(r, cell); err != nil {
				return err
			}
		case k < 11: // a browser tab is opened and left open
			r.tab[cell] = tab{r.set.Known(cell), r.ids(cell)}
		case k < 13: // and acted on, much later
			if tok, ok := r.tab[cell]; ok {
				if err := f.writeWith(r, cell, tok); err != nil {
					return err
				}
			}
		case k < 14: // a clock that was wrong is put right
			if err := f.mend(r); err != nil {
				return err
			}
		case k < 18:
			f.sync(r, f.boxes[f.rnd.IntN(len(f.boxes))])
		case k < 19:
			r.backup = r.clone()
		default:
			if r.backup != nil {
				f.rollback(r)
			}
		}
	}
	for range 2 {
		for _, a := range f.boxes {
			for _, b := range f.boxes {
				f.sync(a, b)
			}
		}
	}
	return nil
}

func (f *Fleet) write(r *replica, cell crdt.Cell) error {
	if f.rnd.IntN(60) == 0 {
		return f.seal(r, r.actor, []crdt.Write{{Table: cell.Table, Record: cell.Record, Flags: crdt.Final}}, nil)
	}
	ws := []crdt.Write{{Table: cell.Table, Record: cell.Record, Field: cell.Field, Value: []byte{byte(f.rnd.IntN(4))}, Ctx: r.set.Known(cell)}}
	if f.rnd.IntN(3) == 0 { // a form with two fields
		for _, o := range f.cells {
			if o.Record == cell.Record && o.Field != cell.Field {
				ws = append(ws, crdt.Write{Table: o.Table, Record: o.Record, Field: o.Field, Value: []byte{9}, Ctx: r.set.Known(o)})
			}
		}
	}
	var saw []crdt.ID
	for i := range ws {
		saw = append(saw, r.ids(crdt.Cell{Scope: crdt.Fleet, Table: ws[i].Table, Record: ws[i].Record, Field: ws[i].Field})...)
	}
	return f.seal(r, r.actor, ws, saw)
}

func (r *replica) ids(cell crdt.Cell) (out []crdt.ID) {
	for _, v := range r.set.Versions(cell) {
		out = append(out, v.ID)
	}
	return out
}

func (f *Fleet) writeWith(r *replica, cell crdt.Cell, seen tab) error {
	ctx, stale := crdt.Plan(r.set.Known(cell), append(crdt.Context{}, seen.ctx...), crdt.MakeActor(r.node, r.actor))
	actor := r.actor
	if stale && !f.Rules.NoFreshOnStale {
		actor = f.fresh()
	}
	if stale && f.Rules.NoFreshOnStale {
		ctx = ctx.With(crdt.Dot{Actor: crdt.MakeActor(r.node, r.actor), Stamp: r.stamp})
	}
	return f.seal(r, actor, []crdt.Write{{Table: cell.Table, Record: cell.Record, Field: cell.Field, Value: []byte{7}, Ctx: ctx}}, seen.ids)
}

// mend is what a box does whose clock was ahead: it writes anew, under an earlier
// time, what it wrote and others have not seen, and takes the former back
// (replica, mend.go).
func (f *Fleet) mend(r *replica) error {
	if r.mended {
		return nil
	}
	limit := crdt.Stamp(0)
	for _, c := range f.all {
		if c.Node != r.node && r.set.Has(c.ID()) {
			limit = max(limit, c.Stamp)
		}
	}
	mine := map[crdt.ActorID][]crdt.Stamp{} // what it knows of its own, also what was overwritten since
	var taken []crdt.ID
	for _, c := range r.log {
		if d := c.Dot(); c.Node == r.node && d.Stamp > limit {
			mine[d.Actor] = append(mine[d.Actor], d.Stamp)
			taken = append(taken, c.ID())
		}
	}
	late := map[crdt.ID]bool{}
	for _, id := range r.set.After(limit) {
		late[id] = true
	}
	if len(late) == 0 {
		return nil
	}
	type again struct {
		of    *crdt.Change
		write crdt.Write
	}
	var todo []again
	for _, c := range f.all { // in the order in which they were written
		if !late[c.ID()] {
			continue
		}
		if c.Writes[0].Flags&crdt.Final != 0 {
			return nil
		}
		if c.Writes[0].Table == crdt.TableVoid {
			continue
		}
		for i := range c.Writes {
			for _, v := range r.set.Versions(c.Cell(i)) {
				if v.ID != c.ID() {
					continue
				}
				w := c.Writes[i]
				w.Ctx = nil
				for _, d := range c.Writes[i].Ctx {
					switch {
					case d.Stamp <= limit:
						w.Ctx = append(w.Ctx, d)
					case !slices.Contains(mine[d.Actor], d.Stamp):
						return nil // it saw another's that is later: it stays as it is
					case f.Rules.ForgetsOwn:
					default: // of ours, what was before counts as seen, too
						w.Ctx = append(w.Ctx, crdt.Dot{Actor: d.Actor, Stamp: limit})
					}
				}
				todo = append(todo, again{c, w})
			}
		}
	}
	r.actor, r.stamp, r.mended = f.fresh(), limit, true
	for _, a := range todo {
		cell := crdt.Cell{Scope: crdt.Fleet, Table: a.write.Table, Record: a.write.Record, Field: a.write.Field}
		ctx, behind := crdt.Plan(r.set.Known(cell), append(crdt.Context{}, a.write.Ctx...), crdt.MakeActor(r.node, r.actor))
		actor := r.actor
		if behind {
			actor = f.fresh()
		}
		a.write.Ctx = ctx
		if err := f.seal(r, actor, []crdt.Write{a.write}, []crdt.ID{a.of.ID()}, a.of); err != nil {
			return err
		}
	}
	for _, w := range crdt.VoidWrites(r.node, taken) {
		if err := f.seal(r, r.actor, []crdt.Write{w}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) seal(r *replica, actor uint32, ws []crdt.Write, saw []crdt.ID, of ...*crdt.Change) error {
	s := crdt.NextStamp(r.stamp, int64(f.rnd.IntN(50))) // clocks far apart
	for i := range ws {
		if f.Rules.StampOrder { // "seen" is everything older
			for _, c := range f.all {
				if c.Stamp < s {
					ws[i].Ctx = ws[i].Ctx.With(c.Dot())
				}
			}
		}
		s = max(s, ws[i].Ctx.Max()+1)
	}
	c := &crdt.Change{Scope: crdt.Fleet, Node: r.node, Actor: actor, Stamp: s, Writes: ws}
	if len(of) > 0 {
		c.Ext = crdt.FormerExt(nil, of[0])
	}
	if err := crdt.Seal(c, crdt.FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		return err
	}
	r.stamp = s
	f.saw[c.ID()] = map[crdt.ID]bool{}
	if len(of) > 0 {
		f.former[c.ID()] = of[0].ID()
	}
	for _, id := range saw {
		f.saw[c.ID()][id] = true
	}
	f.all = append(f.all, c)
	r.take(c)
	return nil
}

func (r *replica) take(c *crdt.Change) {
	if fx := r.set.Add(c); fx.Live && !fx.Known {
		r.log = append(r.log, c)
	}
	r.stamp = max(r.stamp, c.Stamp)
}

func (f *Fleet) sync(a, b *replica) {
	for _, c := range slices.Clone(a.log) {
		if a.set.Has(c.ID()) {
			b.take(c)
		}
	}
	for _, c := range slices.Clone(b.log) {
		if b.set.Has(c.ID()) {
			a.take(c)
		}
	}
}

func (r *replica) clone() *replica {
	c := &replica{set: crdt.NewSet(crdt.Fleet), node: r.node, actor: r.actor, stamp: r.stamp, tab: map[crdt.Cell]tab{}}
	for _, x := range r.log {
		if r.set.Has(x.ID()) {
			c.take(x)
		}
	}
	return c
}

func (f *Fleet) rollback(r *replica) {
	old := r.backup.clone()
	r.set, r.log, r.stamp = old.set, old.log, old.stamp
	if !f.Rules.NoFreshOnRoll {
		r.actor = f.fresh()
	}
}

// Check compares every box with the twin and with each other, and looks for
// writes that went without anybody having seen them.
func (f *Fleet) Check() error {
	twin := NewTwin()
	known := map[crdt.ID]bool{}
	for _, r := range f.boxes {
		for _, c := range r.log {
			twin.Add(c)
			known[c.ID()] = true
		}
	}
	want := twin.Live()
	for i, r := range f.boxes {
		if got := r.set.IDs(); !slices.Equal(got, want) {
			return fmt.Errorf("box %d holds %d live changes, the twin %d", i, len(got), len(want))
		}
		if r.set.Fingerprint() != f.boxes[0].set.Fingerprint() {
			return fmt.Errorf("box %d has another fingerprint", i)
		}
		for _, c := range twin.Cells() {
			var got []crdt.ID
			for _, v := range r.set.Versions(c) {
				got = append(got, v.ID)
			}
			if w := twin.Versions(c); !slices.Equal(got, w) {
				return fmt.Errorf("box %d reads %v of %v, the twin %v", i, got, c, w)
			}
		}
	}
	return f.checkSeen(known)
}

// checkSeen: a write may be gone only if a change that covers it was written by
// somebody who had it before him, directly or through others; or by a final.
func (f *Fleet) checkSeen(known map[crdt.ID]bool) error {
	set := f.boxes[0].set
	below := map[crdt.ID]bool{} // what live changes descend from, truly
	var walk func(id crdt.ID)
	walk = func(id crdt.ID) {
		for p := range f.saw[id] {
			if !below[p] {
				below[p] = true
				walk(p)
			}
		}
	}
	for _, id := range set.IDs() {
		walk(id)
	}
	for _, c := range f.all {
		seen := false // also who saw its former has
		for id, ok := c.ID(), true; ok && !seen; {
			seen = below[id]
			id, ok = f.former[id]
		}
		if !known[c.ID()] || set.Has(c.ID()) || seen {
			continue
		}
		killed := true
		for i := range c.Writes {
			if _, ok := set.Final(c.Writes[i].Table, c.Writes[i].Record); !ok {
				killed = false
			}
		}
		if !killed {
			return fmt.Errorf("change %s is gone, and nobody who replaced it had seen it", c.ID())
		}
	}
	return nil
}
