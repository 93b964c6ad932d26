package main

import (
	"errors"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Directed plays about who is a member: of fleets that were founded.

func fleetCell(record string) crdt.Cell {
	return crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: record, Field: "f"}
}

// apart cuts the fleet in two: the boxes given, and the others.
func (w *world) apart(some ...*box) {
	w.cut(func(b *box) int {
		if slices.Contains(some, b) {
			return 1
		}
		return 0
	})
	w.run(w.now + 2*minute)
}

func (w *world) together() {
	w.cut(func(*box) int { return 0 })
	w.run(w.now + 30*minute)
}

// ends are the first and the last two boxes.
func (w *world) ends() (first, second, near, last *box, ok bool) {
	n := len(w.boxes)
	if n < 5 {
		return nil, nil, nil, nil, false
	}
	return w.boxes[0], w.boxes[1], w.boxes[n-2], w.boxes[n-1], true
}

// revoked: a box is revoked while one other is cut off together with it. What that
// other took before it heard stands everywhere, and nothing that came later.
func revoked(w *world) bool {
	judge, _, near, out, ok := w.ends()
	if !ok {
		return false
	}
	w.apart(near, out)
	judge.revoke(out)
	w.run(w.now + 5*minute)
	if err := out.write(fleetCell("unheard"), nil); err != nil {
		return false
	}
	w.run(w.now + 10*minute)
	if near.links[out.id] == nil || len(near.visible(fleetCell("unheard"))) != 1 {
		return false // chance has not put the two next to each other
	}
	w.out[out] = true
	w.together()
	w.shut(out)
	for _, b := range []*box{judge, near, out} { // nor after they start again
		b.off(true)
		if err := b.start(); err != nil {
			w.truth.fault("%v", err)
		}
	}
	w.run(w.now + 10*minute)
	w.shut(out)
	return true
}

// kept: an issuer is revoked. Whom it admitted is out with it, but for those whom
// the revocation keeps.
func kept(w *world) bool {
	judge, issuer, _, _, ok := w.ends()
	if !ok {
		return false
	}
	var keeps []crdt.Ref
	w.out[issuer] = true
	for i, b := range w.boxes[2:] {
		if b.grant.Parent != issuer.auth {
			continue
		}
		if i%4 == 0 {
			keeps = append(keeps, b.auth)
		} else {
			w.out[b] = true
		}
	}
	if len(keeps) == 0 || len(w.out) < 2 {
		return false
	}
	w.apart(issuer)
	judge.revoke(issuer, keeps...)
	w.run(w.now + 5*minute)
	w.together()
	for _, b := range w.boxes {
		if w.out[b] {
			w.shut(b)
		} else {
			_ = b.write(fleetCell(fmt.Sprint("kept ", b.index)), nil)
		}
	}
	w.run(w.now + 10*minute)
	return true
}

// readmitted: taking away wins over giving, whatever is younger and whoever heard
// of what.
func readmitted(w *world) bool {
	judge, issuer, _, out, ok := w.ends()
	if !ok {
		return false
	}
	w.apart(issuer, out)
	judge.revoke(out)
	w.run(w.now + 5*minute)
	g, err := issuer.issue(out.name())
	if err != nil {
		w.truth.fault("%v", err)
		return true
	}
	issuer.decree(trust.GrantWrite(g))
	w.run(w.now + 5*minute)
	w.out[out] = true
	w.together()
	w.shut(out)
	again, err := issuer.issue(out.name()) // also by who knows of the revocation
	if err != nil {
		w.truth.fault("%v", err)
		return true
	}
	issuer.decree(trust.GrantWrite(again))
	w.run(w.now + 5*minute)
	w.shut(out)
	return true
}

// mutual: both are out (state.md §8, 7), and the others go on.
func mutual(w *world) bool {
	a, b, _, _, ok := w.ends()
	if !ok {
		return false
	}
	keeps := func(of *box) (out []crdt.Ref) {
		for _, x := range w.boxes {
			if x.grant.Parent == of.auth && x != b {
				out = append(out, x.auth)
			}
		}
		return out
	}
	w.apart(b)
	a.revoke(b, keeps(b)...)
	b.revoke(a, append(keeps(a), b.auth)...)
	w.out[a], w.out[b] = true, true
	// What b says reaches the others through one who has not heard of a's word.
	w.cut(func(x *box) int {
		if x.index%2 == 1 {
			return 1
		}
		return 0
	})
	w.run(w.now + 10*minute)
	var raw []byte
	b.st.View(func(v replica.View) {
		if x, ok := v.Set(crdt.Trust).Final(trust.TableRevocation, string(a.id[:])); ok {
			raw = b.raw(x.ID)
		}
	})
	for _, x := range w.boxes[2:] { // in case all had: a box may always be told by hand
		if v, err := x.st.Take(raw); err != nil || v.Outcome != replica.Accept {
			w.truth.fault("%s: %v, %v", x, v, err)
		}
		x.after()
	}
	w.together()
	w.shut(a)
	w.shut(b)
	return true
}

// early: a box is admitted on one side of a cut. What it writes comes to the other
// side first: it is held, is nowhere to be seen, outlives a restart, and counts as
// soon as the grant is there.
func early(w *world) bool {
	a, issuer, _, _, ok := w.ends()
	if !ok {
		return false
	}
	n := newBox(w, len(w.boxes), siteID(9999))
	g, err := issuer.issue(n.name())
	if err != nil {
		w.truth.fault("%v", err)
		return true
	}
	n.grant, n.auth = g, g.ID()
	w.boxes, w.groups = append(w.boxes, n), append(w.groups, 0)
	w.byID[n.id] = n
	w.apart(issuer)
	issuer.decree(trust.GrantWrite(g))
	w.writes++
	c := n.forge("newcomer", fmt.Sprint(w.writes, filler), 0)
	w.truth.writes[w.writes] = &written{cell: c.Cell(0), acked: true, by: n.index}
	if v, err := a.st.Take(c.Raw()); err != nil || v.Outcome != replica.Hold {
		w.truth.fault("%s does not hold a stranger's change: %v, %v", a, v, err)
	}
	a.after()
	a.off(true)
	if err := a.start(); err != nil {
		w.truth.fault("%v", err)
		return true
	}
	w.run(w.now + 10*minute)
	if st := a.st.Status(); st.Held != 1 || len(a.visible(c.Cell(0))) > 0 {
		w.truth.fault("%s holds %d changes, and shows %v", a, st.Held, a.visible(c.Cell(0)))
	}
	w.together()
	if err := n.start(); err != nil { // and it has all the others have
		w.truth.fault("%v", err)
		return true
	}
	_ = n.write(anyCell(w), nil)
	w.run(w.now + 10*minute)
	return true
}

// twin is a box with a copy of another's disk and key, on no net: what it writes
// is carried by hand.
func (b *box) twin() *box {
	c := newBox(b.w, b.index, b.site)
	c.grant, c.auth = b.grant, b.auth
	c.medium.Restore(b.medium.Snapshot())
	return c
}

// copied: a box's disk is copied, and both run and write at one moment, apart from
// each other, on machines that cannot be told apart. Nothing of either is lost;
// the first to have both proves it, and all close their links.
func copied(w *world) bool {
	a, _, _, b, ok := w.ends()
	if !ok {
		return false
	}
	w.cut(func(x *box) int { return x.index })
	w.run(w.now + 2*minute)
	c := b.twin()
	if err := c.start(); err != nil {
		w.truth.fault("%v", err)
		return true
	}
	w.run(w.now + minute)
	if err := errors.Join(b.write(fleetCell("original"), nil), c.write(fleetCell("copy"), nil)); err != nil {
		w.truth.fault("%v", err)
		return true
	}
	raw := c.raw(c.last)
	c.off(false)
	if v, err := a.st.Take(raw); err != nil || v.Outcome != replica.Accept {
		w.truth.fault("%s: %v, %v", a, v, err)
	}
	a.after()
	if len(w.proofs) > 0 {
		w.truth.fault("a proof of what nobody has: %v", w.proofs)
	}
	w.out[b] = true
	w.together()
	for _, x := range w.boxes {
		if x != b && !x.book.Cheats(site.NodeID(b.id)) {
			w.truth.fault("%s has no proof against %s", x, b)
		}
	}
	w.shut(b)
	return true
}

// moved: the copy runs in another machine, and draws an actor of its own. Who has
// seen what the copy wrote last has not seen what the original wrote before that.
func moved(w *world) bool {
	a, _, _, b, ok := w.ends()
	if !ok {
		return false
	}
	w.cut(func(x *box) int { return x.index })
	w.run(w.now + 2*minute)
	c := b.twin()
	c.machine = "another machine"
	if err := c.start(); err != nil {
		w.truth.fault("%v", err)
		return true
	}
	w.run(w.now + minute)
	cell := anyCell(w)
	if err := b.write(cell, nil); err != nil {
		w.truth.fault("%v", err)
	}
	w.run(w.now + minute)
	if err := c.write(cell, nil); err != nil {
		w.truth.fault("%v", err)
	}
	if v, err := a.st.Take(c.raw(c.last)); err != nil || v.Outcome != replica.Accept {
		w.truth.fault("%s: %v, %v", a, v, err)
	}
	c.off(false)
	a.after()
	if err := a.write(cell, nil); err != nil {
		w.truth.fault("%v", err)
	}
	w.together()
	if len(w.proofs) > 0 {
		w.truth.fault("a box is taken for a cheat because its disk was copied into another machine: %v", w.proofs)
	}
	return true
}
